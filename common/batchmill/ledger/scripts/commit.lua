-- Make an attempt's results the shard's results: the one step that counts. Committing twice is one commit. The last commit
-- of a job ends it, too, if nothing else is to be done at its end (`ends_at_commit`, see `submit.lua`).
--
-- @key job
-- @key index
-- @key stage
-- @key shard
-- @key leases
-- @key done
-- @key live_shards
-- @key inline_results
-- @key ready
-- @key waiting
-- @key dead_counts
-- @key borders
-- @key incomplete
-- @key live_jobs
-- @key ended_jobs
-- @key clock_seen
-- @key inline_input
-- @key unreported
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @arg now: clock
-- @arg attempt: attempt
-- @arg rows: int
-- @arg rows_dead: int
-- @arg nbytes: int
-- @arg busy_us: int
-- @arg inline: bytes?  the results; none: they are in the sink
-- @arg max_inline_bytes: int  of a job
-- @arg max_dead: float?  below 1: that share of the rows of the job's source; none: any number
-- @arg too_many_dead: text?  the error that then stops the job (JSON)
-- @arg results: int?  how many; none: one of each row
-- @arg rows_cached: int  of the rows, those not computed
-- @arg rows_filtered: int  of the rows, those without a result
-- @arg roots_dead: int  rows of the job's source that the failed rows are from
-- @arg borders: text?  where a later stage gathers the results of each source row: see `SourceRowBorders`
-- @arg incomplete: text?  the same, the source rows of the failed rows (numbers)
-- @arg used: parts  what the attempt's time was spent on
-- @arg channel: channel
-- @each dead_by_type: DeadRowsCount
-- @arg error_type: text
-- @arg rows: int
-- @answers ok | stale | no room
--
-- stale: another attempt has the shard; no room: write the results to the sink, then commit again.
--
-- dead_counts  hash: error type to how many rows died of it, at most 100 types and 'other'
-- borders  hash: shard id to where source rows begin among its results, until the next stage has settled them
-- incomplete  set: source rows with a failed row, before the stage that gathers them
-- done  hash: shard id to what was settled, see `_encodings.lua`
-- cost_tenants, cost_pools, cost_days  hash: for each tenant, "pool operator" and day since the epoch, the last 400 of them,
--       "NAME PART_us" (µs), "NAME PART_nano" (billionths of the currency's unit), "NAME rows", "NAME attempts"
-- paces  field of the stage: the last intervals between commits, see `_encodings.lua`; each at least a second and a 64th of
--        the run. The open one began at rate_at, when rate_rows rows were settled
-- unreported  list: jobs that ended so, the latest last, see `_encodings.lua`: the leader counts them and writes them to its log
local MAX_UNREPORTED = 10000  -- if no coordinator leads for long

local function note_pace(job, stage)
  local started, paused = unpack(redis.call('HMGET', job, 'started_at', 'paused_ms'))
  local paces, from, rows, done, dead = unpack(redis.call(
    'HMGET', stage, 'paces', 'rate_at', 'rate_rows', 'rows_done', 'rows_dead'))
  local settled, length = tonumber(done) + tonumber(dead), now - tonumber(from or now)
  if from and length < math.max(1000, (now - tonumber(started) - tonumber(paused or '0')) / 64) then return end
  if from then redis.call('HSET', stage, 'paces', append_pace(paces, length, settled - tonumber(rows))) end
  redis.call('HSET', stage, 'rate_at', now, 'rate_rows', settled)
end

local attempt = args.attempt
local settled = redis.call('HGET', keys.done, attempt.shard_id)
if settled then
  local before = parse_settled(settled)
  return before and before.token == attempt.token and answer.ok or answer.stale
end
local state, token, planned_rows, plan, metered =
  unpack(redis.call('HMGET', keys.shard, 'state', 'token', 'rows', 'plan', 'metered'))
if not state or not may_move_shard(state, 'done') or token ~= attempt.token then return answer.stale end
if args.inline then
  local held = tonumber(redis.call('HGET', keys.job, 'inline_bytes') or '0')
  if held + #args.inline > tonumber(args.max_inline_bytes) then return answer.no_room end
  redis.call('HSET', keys.inline_results, attempt.shard_id, args.inline)
  redis.call('HINCRBY', keys.job, 'inline_bytes', #args.inline)
end
local rows = tonumber(args.rows) + tonumber(args.rows_dead)
redis.call('HSET', keys.done, attempt.shard_id, write_settled{
  token = attempt.token, rows = args.rows, rows_dead = args.rows_dead, nbytes = args.nbytes,
  first_row = first_row_of(plan), results = args.results, plan = rows < tonumber(planned_rows) and plan or nil})
if args.borders then redis.call('HSET', keys.borders, attempt.shard_id, args.borders) end
for row in string.gmatch(args.incomplete or '', '%d+') do redis.call('SADD', keys.incomplete, row) end
redis.call('DEL', keys.shard)
redis.call('HDEL', keys.job, 'stalled')
redis.call('SREM', keys.live_shards, attempt.shard_id)
redis.call('ZREM', keys.leases, attempt.key)
redis.call('HINCRBY', keys.stage, 'shards_running', -1)
redis.call('HINCRBY', keys.stage, 'shards_live', -1)
redis.call('HINCRBY', keys.stage, 'shards_done', 1)
redis.call('HINCRBY', keys.stage, 'rows_dead', args.rows_dead)
redis.call('HINCRBY', keys.stage, 'busy_us', args.busy_us)
redis.call('HINCRBY', keys.stage, 'rows_timed', rows)
redis.call('HINCRBY', keys.stage, 'rows_done', args.rows)
if args.rows_cached ~= '0' then redis.call('HINCRBY', keys.stage, 'rows_cached', args.rows_cached) end
if args.rows_filtered ~= '0' then redis.call('HINCRBY', keys.stage, 'rows_filtered', args.rows_filtered) end
if redis.call('HEXISTS', keys.stage, 'buffer_bytes') == 1 then
  redis.call('HINCRBY', keys.stage, 'rows_out', args.results or args.rows)
  redis.call('HINCRBY', keys.stage, 'bytes_out', args.nbytes)
end
for _, counted in ipairs(dead_by_type) do
  local kind = counted.error_type
  if redis.call('HLEN', keys.dead_counts) >= 100 and redis.call('HEXISTS', keys.dead_counts, kind) == 0 then
    kind = 'other'
  end
  redis.call('HINCRBY', keys.dead_counts, kind, counted.rows)
end
if args.max_dead and tonumber(args.rows_dead) > 0 then
  local most, dead = tonumber(args.max_dead), redis.call('HINCRBY', keys.job, 'roots_dead', args.roots_dead)
  local total, in_plan = unpack(redis.call('HMGET', keys.job .. ':stage:0', 'rows_total', 'rows_planned'))
  if most > 0 and most < 1 then most = most * math.max(tonumber(total or '0'), tonumber(in_plan or '0')) end
  if dead > most then stop_job(keys.job, now, 'failing', args.too_many_dead) end
end
local is_settled_now = count_settled(keys.job, keys.stage)
local price = metered and parse_metered(metered).price or 0
charge(keys, attempt, {price = price, parts = parse_parts(args.used), rows = rows}, now, args.channel)
note_pace(keys.job, keys.stage)
local event = is_settled_now and 'settled' or 'committed'
local job_state, ends_at_commit = unpack(redis.call('HMGET', keys.job, 'state', 'ends_at_commit'))
if is_settled_now and ends_at_commit and job_state == 'running' then
  end_job(keys, job_state, 'completed', attempt.job_id, now)
  end_stage(keys)
  local worked_for, done, dead = unpack(redis.call('HMGET', keys.stage, 'worked_for', 'rows_done', 'rows_dead'))
  event = has_ready(keys.index, string.match(worked_for, '^%S+')) and 'finished' or 'ended'  -- no shard waits for its place
  redis.call('RPUSH', keys.unreported, write_ended(attempt.job_id, worked_for, done, dead))
  redis.call('LTRIM', keys.unreported, -MAX_UNREPORTED, -1)
end
index_job(keys.index, keys.job, attempt.job_id, now)
publish(args.channel, event, attempt.job_id)
return answer.ok
