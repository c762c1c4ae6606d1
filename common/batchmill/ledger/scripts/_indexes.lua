-- Indexes: which stages and jobs a role has something to do for, so that no role reads jobs that wait.
-- Every script that changes a job ends with `index_job`, which derives the entries from what the ledger has of the job. So
-- they cannot drift: `reindex.lua` does the same for any job. Members are stages ("job|stage") or jobs.
--
-- plan|POOL|TURN   sorted set: stages to be planned, by how many of their shards live, then by priority
-- ready|POOL|TURN  sorted set: stages with a shard that may be queued now, by when one was last queued, then by priority
-- plan, ready      set of the pools with such stages; plan|POOL, ready|POOL: set of their turns
-- flight|POOL      sorted set: stages with shards that are queued or running, by how many; flight: set of their pools
-- later            sorted set: stages all of whose idle shards wait for a retry, by when the first is due (ms)
-- unqueue          set: stages of paused jobs with queued shards
-- free             set: stages with parts that the next stage may have settled since they were last looked at
-- finish           sorted set: jobs with nothing at work for which a final state is due, by when to try (ms)
-- deadlines        sorted set: jobs that have a deadline and do not stop yet, by their deadline (ms)
-- starved|POOL     sorted set: stages that may run and have rows left, but no shard in flight, by since when (ms)
-- indexed          field of a job and of a stage: the entries that it has now
-- work             hash: how much there is, summed over the jobs that have not ended. "WHAT MAY-RUN POOL OPERATOR": of the
--                  stages of jobs that may run (1) or not (0), the shards that are planned, queued, running and waiting, the
--                  rows left, done and dead, the jobs ("held", one in each pool), the microseconds of device time that the
--                  rows left will take by what the stage's rows took ("expected"), the rows left of stages of which no row
--                  was charged ("unpaced"), and the stages whose source has an unknown length ("open");
--                  "job STATE POOL OPERATOR": jobs by their first stage; "spent - POOL": those of them that are paused at their budget; "owner - TENANT": jobs
--                  "generation": who counted all anew last, see `recount.lua`
-- counted          field of a job and of a stage: "GENERATION WHAT": what of it is in the sums of that generation
local AGEING_MS = 60000  -- a job that waits for this long rises by one priority class
local LIVE_WEIGHT = 1000  -- of a live shard, in the scores of `plan`: above every difference of priorities

-- Score a member under its pool and turn, or remove it (score: nil) and what it leaves empty.
local function index_turn(index, kind, pool, turn, member, score)
  local pools, turns = index .. kind, table.concat({index .. kind, pool}, '|')
  local members = turns .. '|' .. turn
  if score then
    redis.call('ZADD', members, score, member)
    redis.call('SADD', turns, turn)
    redis.call('SADD', pools, pool)
  elseif redis.call('ZREM', members, member) == 1 and redis.call('EXISTS', members) == 0 then
    redis.call('SREM', turns, turn)
    if redis.call('EXISTS', turns) == 0 then redis.call('SREM', pools, pool) end
  end
end

local function index_flight(index, pool, member, in_flight)
  local members = index .. 'flight|' .. pool
  if in_flight > 0 then
    redis.call('ZADD', members, in_flight, member)
    redis.call('SADD', index .. 'flight', pool)
  elseif redis.call('ZREM', members, member) == 1 and redis.call('EXISTS', members) == 0 then
    redis.call('SREM', index .. 'flight', pool)
  end
end

-- Whether a stage of a pool has a shard that may be queued now.
local function has_ready(index, pool)
  return redis.call('EXISTS', index .. 'ready|' .. pool) == 1
end

-- Whether fewer shards of a pool than this are in flight.
local function flies_below(index, pool, limit)
  local flying, left = redis.call('ZRANGE', index .. 'flight|' .. pool, 0, limit - 1, 'WITHSCORES'), limit
  for at = 2, #flying, 2 do left = left - tonumber(flying[at]) end
  return left > 0
end

local function index_score(key, member, score)
  if score then redis.call('ZADD', key, score, member) else redis.call('ZREM', key, member) end
end

-- How `indexed` has an entry with a score.
local function index_entry(score)
  return score and string.format('%.0f', score) or '-'
end

-- When the first idle shard of a stage may be queued: 0 for a planned one, else when the first retry is due.
local function first_due(ready, waiting)
  if redis.call('EXISTS', ready) == 1 then return 0 end
  return tonumber(redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2] or '0')
end

-- Whether a stage that is not planned has input that it could be planned for: the first always may have some, a later one
-- once the shard at its cursor, of the stage before it, is settled, or all of them are, or when it has to be planned because
-- time passes.
local function may_have_input(job, number, cursor)
  if number == 0 or is_ticking(cursor) then return true end
  local before = number - 1
  if redis.call('HEXISTS', job .. ':done:' .. before, shard_of_cursor(cursor)) == 1 then return true end
  return is_settled(job .. ':stage:' .. before)
end

local function ceil_div(amount, parts)
  return math.ceil(amount / math.max(parts, 1))
end

-- How many bytes of the results of which there are `bytes_out`, its own or of a stage that runs with it, a live shard of a
-- stage is expected to make: by the mean of a row so far, before the first ones by its input, as `buffer_credit` has it.
local GUESSED_GROWTH = 8
local function expected_bytes(stage, bytes_out)
  local found = redis.call(
    'HMGET', stage, 'rows_done', 'rows_dead', 'rows_planned', 'shards_live', 'bytes_in', 'shards_planned')
  for at = 1, 6 do found[at] = tonumber(found[at] or '0') end
  local done, dead, planned, live, bytes_in, shards = unpack(found)
  local settled = done + dead
  if settled == 0 then return GUESSED_GROWTH * ceil_div(bytes_in, shards) end
  return ceil_div(bytes_out, settled) * ceil_div(planned - settled, live)
end

-- Whether a buffer has no room for what one more shard of a stage is expected to make, as `buffer_credit` has it, so that
-- none may be queued. made_in: the stage whose results are in it, this one or one that runs with it.
local function is_full(job, stage, made_in, in_flight)
  local limit, out, freed = unpack(redis.call('HMGET', job .. ':stage:' .. made_in, 'buffer_bytes', 'bytes_out', 'bytes_freed'))
  if not limit then return false end
  local per_shard = expected_bytes(stage, tonumber(out or '0'))
  local buffered = tonumber(out or '0') - tonumber(freed or '0')
  local has_room = per_shard == 0 or buffered + (in_flight + 1) * per_shard <= tonumber(limit)
  if has_room or (buffered == 0 and in_flight == 0) then return false end
  return tonumber(redis.call('HGET', job .. ':stage:' .. (made_in + 1), 'shards_live') or '0') > 0
end

-- How the results of a stage and the next stage stand: whether its buffer or one of those that run with it is full, and
-- whether the next stage has settled shards since the parts were last looked at.
local function index_buffer(job, stage, number, in_flight)
  local limit, out, freed, freed_at =
    unpack(redis.call('HMGET', stage, 'buffer_bytes', 'bytes_out', 'bytes_freed', 'freed_at'))
  if not limit then return false, false end
  local made_in, is_blocked = number, is_full(job, stage, number, in_flight)
  while not is_blocked and is_joined(job, made_in + 1) do
    made_in = made_in + 1
    is_blocked = is_full(job, stage, made_in, in_flight)
  end
  local buffered = tonumber(out or '0') - tonumber(freed or '0')
  local done = buffered > 0 and tonumber(redis.call('HGET', job .. ':stage:' .. (number + 1), 'shards_done') or '0') or 0
  return is_blocked, buffered > 0 and done > tonumber(freed_at or '0')
end

-- Add to a sum of `work`, or drop it when nothing is left.
local function add_work(index, amount, what, state, name)
  if amount == 0 then return end
  local field = table.concat({what, state, name}, ' ')
  if redis.call('HINCRBY', index .. 'work', field, string.format('%.0f', amount)) == 0 then
    redis.call('HDEL', index .. 'work', field)
  end
end

-- What a field `counted` says for this generation; empty: nothing.
local function counted_by(generation, text)
  local by, what = string.match(text or '', '^(%S+) (.*)$')
  return by == generation and what or ''
end

-- What the rows left of a stage will cost, by what its own rows have cost: microseconds of device time, loads of models left
-- out; and the rows of which that is not known. One of the two is 0.
local PACE_FIELDS = {'cost useful_us', 'cost padding_us', 'cost retried_us', 'cost idle_us', 'cost rows'}
local function expected_time(stage, left)
  if left == 0 then return 0, 0 end
  local us, rows = 0, 0
  for at, amount in ipairs(redis.call('HMGET', stage, unpack(PACE_FIELDS))) do
    if at < #PACE_FIELDS then us = us + tonumber(amount or '0') else rows = tonumber(amount or '0') end
  end
  if rows == 0 then return 0, left end
  return math.floor(left * us / rows), 0
end

-- Count a stage as `now_counted` says, "may-run planned queued running waiting left done dead held expected unpaced open",
-- instead of as before; empty: not at all.
local COUNTS = {'planned', 'queued', 'running', 'waiting', 'left', 'done', 'dead', 'held', 'expected', 'unpaced', 'open'}
local function count_stage(index, generation, stage, worked_for, before, now_counted)
  if now_counted == before then return end
  local was, is = {}, {}
  for number in string.gmatch(before, '%d+') do was[#was + 1] = tonumber(number) end
  for number in string.gmatch(now_counted, '%d+') do is[#is + 1] = tonumber(number) end
  local same = not was[1] or not is[1] or was[1] == is[1]
  for at, what in ipairs(COUNTS) do
    local less, more = was[at + 1] or 0, is[at + 1] or 0
    if same then
      add_work(index, more - less, what, is[1] or was[1], worked_for)
    else
      add_work(index, -less, what, was[1], worked_for)
      add_work(index, more, what, is[1], worked_for)
    end
  end
  redis.call('HSET', stage, 'counted', generation .. ' ' .. now_counted)
end

-- Count a job as `now_counted` says, "state spent" (1: paused at its budget), instead of as before; empty: not at all.
local function count_job(index, generation, job, worked_for, tenant, before, now_counted)
  if now_counted == before then return end
  for _, one in ipairs({{before, -1}, {now_counted, 1}}) do
    local state, spent = string.match(one[1], '^(%S+) (%d)$')
    if state then
      add_work(index, one[2], 'job', state, worked_for)
      add_work(index, one[2], 'owner', '-', tenant)
      add_work(index, one[2] * tonumber(spent), 'spent', '-', string.match(worked_for, '^%S+'))
    end
  end
  redis.call('HSET', job, 'counted', generation .. ' ' .. now_counted)
end

-- Index a stage; returns how many attempts of its shards run, and whether all that it will ever have are settled.
-- found: state, created and priority of the job, the generation of the sums, and the pools of its stages before this one.
local function index_stage(index, job, job_id, number, found, now)
  local stage, member = job .. ':stage:' .. number, stage_key(job_id, number)
  local worked_for, turn, planned, live, queued, running, since, before, total, in_plan, done, dead, counted, cursor, joins, lag,
    stragglers =
    unpack(redis.call('HMGET', stage, 'worked_for', 'turn', 'planned', 'shards_live', 'shards_queued', 'shards_running',
      'last_queued_at', 'indexed', 'rows_total', 'rows_planned', 'rows_done', 'rows_dead', 'counted', 'cursor',
      'joins', 'lag', 'stragglers'))
  live, queued, running = tonumber(live or '0'), tonumber(queued or '0'), tonumber(running or '0')
  done, dead = tonumber(done or '0'), tonumber(dead or '0')
  local pool, may_run, in_flight = string.match(worked_for, '^%S+'), takes_shards(found.state), queued + running
  local unread = planned == '1' and 0 or tonumber(lag or '0')  -- a drained job reads no more of its stream
  local left = math.max(tonumber(total or '0'), tonumber(in_plan or '0')) - done - dead + unread
  local waiting = live > in_flight and redis.call('ZCARD', job .. ':waiting:' .. number) or 0
  local plan, ready, later, starved
  local is_blocked, frees = index_buffer(job, stage, number, in_flight)
  frees = frees and not is_final(found.state)
  local is_planned = planned == '1' or joins == '1'  -- commits of the stage before give it its shards
  if may_run and not is_planned and may_have_input(job, number, cursor) then plan = live * LIVE_WEIGHT - found.priority end
  if may_run and in_flight == 0 and left > 0 and (number == 0 or live > 0) and not is_blocked then
    starved = tonumber(since or found.created)
  end
  if found.state == 'running' and live > in_flight and not is_blocked then
    local due = first_due(job .. ':ready:' .. number, job .. ':waiting:' .. number)
    if due > now then later = due else ready = tonumber(since or found.created) - found.priority * AGEING_MS end
  end
  local is_paused = found.state == 'paused' and queued > 0
  local entries = {index_entry(plan), index_entry(ready), index_entry(later), tostring(in_flight), tostring(is_paused),
                   index_entry(starved), tostring(frees)}
  local text = table.concat(entries, ' ')
  if text ~= before then
    local had = {string.match(before or '', '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')}
    if entries[1] ~= had[1] then index_turn(index, 'plan', pool, turn, member, plan) end
    if entries[2] ~= had[2] then index_turn(index, 'ready', pool, turn, member, ready) end
    if entries[3] ~= had[3] then index_score(index .. 'later', member, later) end
    if entries[4] ~= had[4] then index_flight(index, pool, member, in_flight) end
    if entries[5] ~= had[5] then redis.call(is_paused and 'SADD' or 'SREM', index .. 'unqueue', member) end
    if entries[6] ~= had[6] then index_score(index .. 'starved|' .. pool, member, starved) end
    if entries[7] ~= had[7] then redis.call(frees and 'SADD' or 'SREM', index .. 'free', member) end
    redis.call('HSET', stage, 'indexed', text)
  end
  local now_counted = ''
  if not is_final(found.state) then
    local planned_shards = math.max(live - in_flight - waiting, 0)
    local to_do = joins == '1' and found.left or math.max(left, 0)
    local expected, unpaced = expected_time(stage, to_do)
    local is_open = number == 0 and planned ~= '1' and not total and not lag
    now_counted = string.format('%d %.0f %.0f %.0f %.0f %.0f %.0f %.0f %d %.0f %.0f %d', may_run and 1 or 0, planned_shards,
      queued, running, waiting, math.max(left, 0), done, dead, found.pools[pool] and 0 or 1, expected, unpaced,
      is_open and 1 or 0)
    found.left = to_do  -- a stage that runs with this one has its rows
  end
  count_stage(index, found.generation, stage, worked_for, counted_by(found.generation, counted), now_counted)
  found.pools[pool], found.worked_for = true, found.worked_for or worked_for
  return running + tonumber(stragglers or '0'), planned == '1' and live == 0
end

-- Give a job and its stages the entries that they are due.
local function index_job(index, job, job_id, now)
  local state, stages, created, priority, deadline, before, tenant, budget, cost, counted = unpack(redis.call('HMGET', job,
    'state', 'stage_count', 'created_at', 'priority', 'deadline_ms', 'indexed', 'tenant', 'budget_nano', 'cost_nano',
    'counted'))
  if not state then return end
  local generation = redis.call('HGET', index .. 'work', 'generation') or '-'
  local found = {state = state, created = created, priority = tonumber(priority), generation = generation, pools = {}}
  local running, settled = 0, true
  for number = 0, tonumber(stages) - 1 do
    local runs, is_over = index_stage(index, job, job_id, number, found, now)
    running, settled = running + runs, settled and is_over
  end
  local is_spent = state == 'paused' and budget and tonumber(cost or '0') >= (tonumber(budget) or math.huge)
  local now_counted = is_final(state) and '' or state .. (is_spent and ' 1' or ' 0')
  count_job(index, generation, job, found.worked_for, tenant, counted_by(generation, counted), now_counted)
  local over = settled and (state == 'running' or state == 'paused')
  local is_due = running == 0 and (is_stopping(state) or over)
  local waits = deadline and not is_stopping(state) and not is_final(state)
  local entries = tostring(is_due) .. ' ' .. tostring(waits and deadline or '-')
  if entries == before then return end
  if is_due then
    redis.call('ZADD', index .. 'finish', 'NX', now, job_id)
  else
    redis.call('ZREM', index .. 'finish', job_id)
  end
  index_score(index .. 'deadlines', job_id, waits and deadline or nil)
  redis.call('HSET', job, 'indexed', entries)
end
