-- Make an attempt's results the shard's results: the one step that counts. Committing twice is one commit. The last commit
-- of a job ends it, too, if nothing else is to be done at its end (`ends_at_commit`, see `submit.lua`).
--
-- A stage that runs with the one before it (`joins`) has the same shards: each has what the shard of that number made in the
-- stage before. An attempt may run its shard through several of them (`passed`). What it leaves becomes a shard of the first
-- stage that it has not passed, to be queued like any other, or after the wait that the attempt's failure there asks for.
--
-- An attempt whose results became too many commits the first rows of its shard as a part (`rest`); another shard has the
-- other rows. Both replace the shard, or follow the parts that it had before: then only the number of these is larger.
--
-- Of a shard that is run a second time (`speculate.lua`) both attempts may commit, and the first one to do so counts. The job
-- is charged for what the other one has used, and what either makes later is dropped: its lease is gone.
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
-- @key announcements
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
-- @arg tokens: text?  of prompts, of those cached, and generated, for the results ("12 0 7"); none: no language model
-- @arg roots_dead: int  rows of the job's source that the failed rows are from
-- @arg borders: text?  where a later stage gathers the results of each source row: see `SourceRowBorders`
-- @arg incomplete: text?  the same, the source rows of the failed rows (numbers)
-- @arg used: parts  what the attempt's time was spent on
-- @arg failed_in_next: flag  the attempt has tried the stage behind those that it has passed; what follows is about that
-- @arg delay_ms: int  until the next attempt there
-- @arg failures: int  of its shard
-- @arg checkpoint: text?  blob with what is done of it
-- @arg stalled_by: text?  why storage could not be used
-- @arg stalled_ms: int
-- @arg pause_for: text?  why the job is paused
-- @arg stop_with: text?  the error that stops the job (JSON)
-- @arg used_in_next: parts  what the attempt's time there was spent on
-- @arg channel: channel
-- @each dead_by_type: DeadRowsCount
-- @arg error_type: text
-- @arg rows: int
-- @each rest: Rest
-- @key shard
-- @arg shard_id: shard_id
-- @arg part_id: shard_id  of what is committed
-- @arg split_id: shard_id  of the shard that both are parts of
-- @arg parts: int  how many it has now
-- @arg rows: int
-- @arg plan: text
-- @arg checkpoint: text?  blob with what is done of it
-- @arg delay_ms: int  until its first attempt
-- @each passed: PassedStage
-- @arg version: text  of the operator that ran
-- @arg revision: text  the same with its code
-- @arg rows: int
-- @arg rows_dead: int
-- @arg nbytes: int
-- @arg busy_us: int
-- @arg inline: bytes?
-- @arg max_dead: float?
-- @arg too_many_dead: text?
-- @arg results: int?
-- @arg rows_cached: int
-- @arg rows_filtered: int
-- @arg tokens: text?
-- @arg roots_dead: int
-- @arg borders: text?
-- @arg incomplete: text?
-- @arg used: parts
-- @answers ok | stale | no room | other revision
--
-- stale: another attempt has the shard; no room: write the results to the sink, then commit again. other revision: a stage of
-- `passed` is bound to another one: commit again without them.
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

-- Announce that a job has as many failed rows, in all its stages, as one of its webhooks asks for.
local function announce_dead_rows(job, rows)
  local asked = rows > 0 and redis.call('HGET', job, 'announces')
  if not asked then return end
  local dead = redis.call('HINCRBY', job, 'dead_announced', rows)
  for limit in string.gmatch(asked, '%d+') do
    if dead >= tonumber(limit) and dead - rows < tonumber(limit) then
      announce(keys, 'dead_rows:' .. limit, args.attempt.job_id, now)
    end
  end
end

-- Count what an attempt has made of a shard in a stage; `made` has the fields of the arguments.
local function settle_shard(job, of, shard_id, made)
  local rows = tonumber(made.rows) + tonumber(made.rows_dead)
  if made.inline then
    redis.call('HSET', of.inline_results, shard_id, made.inline)
    redis.call('HINCRBY', job, 'inline_bytes', #made.inline)
  end
  redis.call('HSET', of.done, shard_id, write_settled(made))
  if made.borders then redis.call('HSET', of.borders, shard_id, made.borders) end
  for row in string.gmatch(made.incomplete or '', '%d+') do redis.call('SADD', job .. ':incomplete', row) end
  redis.call('HINCRBY', of.stage, 'shards_done', 1)
  redis.call('HINCRBY', of.stage, 'rows_dead', made.rows_dead)
  redis.call('HINCRBY', of.stage, 'busy_us', made.busy_us)
  redis.call('HINCRBY', of.stage, 'rows_timed', rows)
  redis.call('HINCRBY', of.stage, 'rows_done', made.rows)
  if made.rows_cached ~= '0' then redis.call('HINCRBY', of.stage, 'rows_cached', made.rows_cached) end
  if made.rows_filtered ~= '0' then redis.call('HINCRBY', of.stage, 'rows_filtered', made.rows_filtered) end
  if made.tokens then
    local prompt, cached, generated = string.match(made.tokens, '^(%d+) (%d+) (%d+)$')
    redis.call('HINCRBY', of.stage, 'prompt_tokens', prompt)
    redis.call('HINCRBY', of.stage, 'cached_tokens', cached)
    redis.call('HINCRBY', of.stage, 'generated_tokens', generated)
  end
  if redis.call('HEXISTS', of.stage, 'buffer_bytes') == 1 then
    redis.call('HINCRBY', of.stage, 'rows_out', made.results or made.rows)
    redis.call('HINCRBY', of.stage, 'bytes_out', made.nbytes)
  end
  if made.max_dead and tonumber(made.rows_dead) > 0 then
    local most, dead = tonumber(made.max_dead), redis.call('HINCRBY', job, 'roots_dead', made.roots_dead)
    local total, in_plan = unpack(redis.call('HMGET', job .. ':stage:0', 'rows_total', 'rows_planned'))
    if most > 0 and most < 1 then most = most * math.max(tonumber(total or '0'), tonumber(in_plan or '0')) end
    if dead > most then stop_job(job, now, 'failing', made.too_many_dead) end
  end
  announce_dead_rows(job, tonumber(made.rows_dead))
  note_pace(job, of.stage)
  return tonumber(made.results or made.rows)
end

local function add_rows(of, rows, nbytes)
  redis.call('HINCRBY', of.stage, 'bytes_in', nbytes)
  return string.format('%.0f', redis.call('HINCRBY', of.stage, 'rows_planned', rows) - rows)
end

-- Give what a shard has made to the stages that run with its own and that the attempt has not passed. Returns the keys of the
-- stage that has a shard of it now; nil for no results.
local function hand_on(job, number, made, results, nbytes, tried)
  while is_joined(job, number) do
    local of = stage_keys(job, number)
    local first_row = add_rows(of, results, nbytes)
    if results > 0 then
      local shard = shard_key(job, number, made.shard_id)
      redis.call('HSET', shard, 'token', made.last_token, 'rows', results, 'failures', tried.failures, 'losses', 0,
                 'plan', plan_of_part(first_row, results, made.shard_id, made.token))
      if tried.checkpoint then redis.call('HSET', shard, 'checkpoint', tried.checkpoint) end
      if tried.stalled_by then redis.call('HSET', shard, 'stalled_ms', tried.stalled_ms) end
      if tried.due then
        redis.call('HSET', shard, 'state', 'waiting')
        redis.call('ZADD', of.waiting, tried.due, made.shard_id)
      else
        redis.call('HSET', shard, 'state', 'planned')
        redis.call('RPUSH', of.ready, made.shard_id)
      end
      redis.call('SADD', of.live_shards, made.shard_id)
      redis.call('HINCRBY', of.stage, 'shards_live', 1)
      redis.call('HDEL', job, 'ends_at_commit')  -- its input is to be deleted then
      return of
    end
    redis.call('HSET', of.done, made.shard_id, write_settled{
      token = made.token, rows = 0, rows_dead = 0, nbytes = 0, first_row = first_row})
    redis.call('HINCRBY', of.stage, 'shards_done', 1)
    number = number + 1
  end
end

local attempt, number = args.attempt, tonumber(args.attempt.stage)
local made = {shard_id = attempt.shard_id, token = attempt.token}  -- and last_token: of the attempts of the shard
for _, one in ipairs(rest) do made.shard_id = one.part_id end
local settled = redis.call('HGET', keys.done, made.shard_id)
if settled then
  local before = parse_settled(settled)
  return before and before.token == attempt.token and answer.ok or answer.stale
end
local state, token, planned_rows, plan, metered, straggler, straggler_metered, queued_in = unpack(redis.call(
  'HMGET', keys.shard, 'state', 'token', 'rows', 'plan', 'metered', 'straggler', 'straggler_metered', 'queued_in'))
local straggles = straggler == attempt.token
made.last_token = token
if not state or not (straggles or (token == attempt.token and state == 'running')) then return answer.stale end
local own_metered = straggles and straggler_metered or metered
local price = own_metered and parse_metered(own_metered).price or 0
local inline = args.inline and #args.inline or 0
for place, one in ipairs(passed) do
  local of = stage_keys(keys.job, number + place)
  local version, revision = unpack(redis.call('HMGET', of.stage, 'operator_version', 'revision'))
  if not is_joined(keys.job, number + place) or (revision and revision ~= one.revision)
     or (version and version ~= '' and version ~= one.version) then
    return answer.other_revision
  end
  inline = inline + (one.inline and #one.inline or 0)
end
if inline > 0 and tonumber(redis.call('HGET', keys.job, 'inline_bytes') or '0') + inline > tonumber(args.max_inline_bytes) then
  return answer.no_room
end
local rows = tonumber(args.rows) + tonumber(args.rows_dead)
local left, nbytes = settle_shard(keys.job, keys, made.shard_id, {
  token = attempt.token, rows = args.rows, rows_dead = args.rows_dead, nbytes = args.nbytes, first_row = first_row_of(plan),
  results = args.results, plan = #rest == 0 and rows < tonumber(planned_rows) and plan or nil, inline = args.inline, busy_us = args.busy_us,
  rows_cached = args.rows_cached, rows_filtered = args.rows_filtered, roots_dead = args.roots_dead, max_dead = args.max_dead,
  too_many_dead = args.too_many_dead, tokens = args.tokens, borders = args.borders, incomplete = args.incomplete}), args.nbytes
redis.call('DEL', keys.shard)
redis.call('HDEL', keys.job, 'stalled')
redis.call('SREM', keys.live_shards, attempt.shard_id)
local loser = straggler and sibling(attempt, straggles and token or straggler)
local loser_metered, loser_ends = straggles and metered or straggler_metered, loser and redis.call('ZSCORE', keys.leases, loser.key)
redis.call('ZREM', keys.leases, attempt.key)
if loser then
  redis.call('ZREM', keys.leases, loser.key)
  redis.call('ZREM', queued_in, loser.key)
  redis.call('ZREM', keys.waiting, attempt.shard_id)
  redis.call('HINCRBY', keys.stage, 'stragglers', -1)
end
if not straggles or state == 'running' then redis.call('HINCRBY', keys.stage, 'shards_running', -1) end
if straggles and state == 'queued' then redis.call('HINCRBY', keys.stage, 'shards_queued', -1) end
redis.call('HINCRBY', keys.stage, 'shards_live', -1)
-- Give the rows that the attempt leaves of its shard to another one. Tokens continue: no two attempts write one blob.
for _, one in ipairs(rest) do
  local made_in = number
  repeat
    redis.call('HSET', stage_keys(keys.job, made_in).done, one.split_id, write_split_up(one.parts))
    made_in = made_in + 1
  until not is_joined(keys.job, made_in)
  redis.call('HSET', one.keys.shard, 'state', 'waiting', 'token', token, 'rows', one.rows, 'plan', one.plan,
             'failures', 0, 'losses', 0)
  if one.checkpoint then redis.call('HSET', one.keys.shard, 'checkpoint', one.checkpoint) end
  redis.call('SADD', keys.live_shards, one.shard_id)
  redis.call('ZADD', keys.waiting, now + tonumber(one.delay_ms), one.shard_id)
  redis.call('HINCRBY', keys.stage, 'shards_live', 1)
  redis.call('HDEL', keys.job, 'ends_at_commit')  -- a checkpoint may have to be deleted then
end
for _, counted in ipairs(dead_by_type) do
  local kind = counted.error_type
  if redis.call('HLEN', keys.dead_counts) >= 100 and redis.call('HEXISTS', keys.dead_counts, kind) == 0 then
    kind = 'other'
  end
  redis.call('HINCRBY', keys.dead_counts, kind, counted.rows)
end
for place, one in ipairs(passed) do
  local of = stage_keys(keys.job, number + place)
  if redis.call('HEXISTS', of.stage, 'any_version') == 0 then
    redis.call('HSET', of.stage, 'operator_version', one.version, 'revision', one.revision)
  end
  local first_row = add_rows(of, left, nbytes)
  left, nbytes = settle_shard(keys.job, of, made.shard_id, {
    token = attempt.token, rows = one.rows, rows_dead = one.rows_dead, nbytes = one.nbytes, first_row = first_row,
    results = one.results, inline = one.inline, busy_us = one.busy_us, rows_cached = one.rows_cached,
    rows_filtered = one.rows_filtered, roots_dead = one.roots_dead, max_dead = one.max_dead,
    too_many_dead = one.too_many_dead, tokens = one.tokens, borders = one.borders, incomplete = one.incomplete}), one.nbytes
end
local tried = {failures = args.failures, checkpoint = args.checkpoint, stalled_by = args.stalled_by,
               stalled_ms = args.stalled_ms, due = args.failed_in_next and now + tonumber(args.delay_ms) or nil}
local next_stage = hand_on(keys.job, number + #passed + 1, made, left, nbytes, tried)
if next_stage and args.failed_in_next then
  if args.stalled_by then redis.call('HSET', keys.job, 'stalled', args.stalled_by) end
  if args.pause_for then pause_job_for(keys.job, args.pause_for, now, args.channel, attempt.job_id) end
  if args.stop_with then stop_job(keys.job, now, 'failing', args.stop_with) end
end
local event = count_settled(keys.job, number) and 'settled' or 'committed'
local function charge_stage(stage, parts, settled_rows)
  local of = {job = keys.job, stage = stage, cost_tenants = keys.cost_tenants, cost_pools = keys.cost_pools,
              cost_days = keys.cost_days}
  charge(of, attempt, {price = price, parts = parse_parts(parts), rows = settled_rows}, now, args.channel)
end
charge_stage(keys.stage, args.used, rows)
for place, one in ipairs(passed) do
  charge_stage(stage_keys(keys.job, number + place).stage, one.used, tonumber(one.rows) + tonumber(one.rows_dead))
end
if next_stage and args.failed_in_next then charge_stage(next_stage.stage, args.used_in_next, 0) end
if loser and loser_metered and loser_ends then
  charge_lost({job = keys.job, stage = keys.stage, cost_tenants = keys.cost_tenants, cost_pools = keys.cost_pools,
               cost_days = keys.cost_days}, loser, loser_ends, now, args.channel, loser_metered)
end
local job_state, ends_at_commit, stages_open, stages =
  unpack(redis.call('HMGET', keys.job, 'state', 'ends_at_commit', 'stages_open', 'stage_count'))
if stages_open == '0' and ends_at_commit and job_state == 'running' then
  local worked_for = redis.call('HGET', keys.job .. ':stage:0', 'worked_for')
  end_job(keys, job_state, 'completed', attempt.job_id, now)
  for one = 0, tonumber(stages) - 1 do end_stage(stage_keys(keys.job, one)) end
  event = has_ready(keys.index, string.match(worked_for, '^%S+')) and 'finished' or 'ended'  -- no shard waits for its place
  local last, failed = keys.job .. ':stage:' .. (tonumber(stages) - 1), 0
  for one = 0, tonumber(stages) - 1 do
    failed = failed + tonumber(redis.call('HGET', keys.job .. ':stage:' .. one, 'rows_dead') or '0')
  end
  redis.call('RPUSH', keys.unreported, write_ended(attempt.job_id, worked_for, redis.call('HGET', last, 'rows_done'), failed))
  redis.call('LTRIM', keys.unreported, -MAX_UNREPORTED, -1)
end
index_job(keys.index, keys.job, attempt.job_id, now)
publish(args.channel, event, attempt.job_id)
return answer.ok
