-- Accept a job, or find the one that was accepted under the same idempotency key. Asking again with the same job id is
-- one acceptance. A stage all of whose input fits into one shard is planned at once: the job runs, and the planner has
-- nothing to do. If a worker is free for it, and no other shard of its pool waits, that shard is queued at once, too: the
-- dispatcher would choose nothing else. The caller publishes its message.
--
-- @key job
-- @key index
-- @key jobs
-- @key live_jobs
-- @key idempotency?
-- @key inline_input
-- @key uploads
-- @key tenant_jobs
-- @key tenant_live_jobs
-- @key streams
-- @key schema
-- @arg now: clock
-- @arg schema: int  of the data formats that the caller writes
-- @arg job_id: text
-- @arg spec: text  JSON
-- @arg digest: text  of the request
-- @arg idempotency_key: text?
-- @arg inline_rows: bytes?
-- @arg upload: text?  the upload that it takes
-- @arg max_live_jobs: int
-- @arg max_tenant_jobs: int?  of the tenant's that live
-- @arg replay_of: text?  the job whose dead letters this one replays
-- @arg resumed_from: text?  the job whose output this one resumes
-- @arg tenant: text
-- @arg budget_nano: int?  billionths of the currency's unit
-- @arg priority: int
-- @arg deadline_ms: int?
-- @arg ends_at_commit: flag  nothing is to be closed or deleted at its end
-- @arg reads_stream: flag  its source has no end
-- @arg any_version: flag  its stages are bound to no version of their operators
-- @arg announces: text?  it has webhooks: "ends", and the numbers of failed rows that they report: "ends 10 500"
-- @arg channel: channel
-- @each stages: NewStage
-- @param stage: int
-- @param pool: text
-- @key stage
-- @key shard
-- @key ready
-- @key live_shards
-- @key queued
-- @arg operator_version: text
-- @arg worked_for: text  "pool operator"
-- @arg turn: text  "operator digest": stages of one tenant, operator and parameters take turns with others
-- @arg rows_total: int?  where it is known
-- @arg buffer_bytes: int?  of its results that may wait for the next stage; none: it is the last
-- @arg joins: flag  it runs with the stage before it
-- @arg shard_id: shard_id  of its first shard
-- @arg plan: text?  of that shard if it holds all of the input; then the next two are given too
-- @arg nbytes: int?  of that shard
-- @arg cursor: text?  at the input's end
-- @arg queue_below: int?  that shard may be queued at once while fewer of its pool are in flight
-- @answers accepted | known | conflict | full | tenant full | no upload | other schema
-- @returns known_id: text  the job's id; of another schema its version
-- @returns token: int  of its first shard, if that is queued; 0: it is not, or the answer to the first request was lost
--
-- job          hash: spec, state, created_at, started_at, paused_at, stopping_at, finished_at (ms), error (JSON),
--              paused_ms (in all pauses that are over, since it started), idempotency_key, replay_of, resumed_from,
--              roots_dead (rows of the source with a failed row, where max_dead is given),
--              must_resume (1: what `resumed_from` left is still to be taken over), stages_open (that are not settled),
--              ends_at_commit (1: its last commit ends it; no checkpoint was stored), tenant, live_in (key), stage_count, priority,
--              deadline_ms, indexed, counted, inline_bytes, budget_nano, cost_nano, noted, paused_for,
--              announces, dead_announced (failed rows that were counted for it)
--              savepoint (of a drained job over a stream: the cursor of its first stage), stream_away (why its source
--              cannot be asked)
-- stage        hash: joins (1: it runs with the stage before it, and has the same shards), operator_version, revision (version and code, from the first claim), any_version (1: of several versions), worked_for ("pool operator"), turn, indexed, counted, cursor, planned (1: its input's end was reached),
--              rows_total, rows_exact, rows_planned, rows_done, rows_dead, rows_timed, rows_cached,
--              prompt_tokens, cached_tokens, generated_tokens (of the results of language models),
--              rows_resumed (of those done and dead, what an earlier job left), shards_planned,
--              shards_live, shards_queued, shards_running, shards_done, busy_us, bytes_in, paces, rate_at, rate_rows,
--              rows_filtered (of those done, without a result), and of a stage that is not the last: buffer_bytes, rows_out
--              and bytes_out (committed results), bytes_freed (of those that the next stage has settled), freed (how far
--              its parts are freed, see `encodings.py`), freed_at (settled shards of the next stage by then),
--              last_queued_at (or when the job was resumed), lag (rows that its stream has and that are not planned),
--              kept (of which shards of a stream something is kept, see `KeptShards`), and its cost, in fields as those of cost_tenants, "cost …"
-- streams      sorted set: jobs that read streams and have not ended, by when they were submitted
-- idempotency  string, see `_encodings.lua`; goes with the job: Redis' clock, which may jump, does not end it
if redis.call('EXISTS', keys.job) == 1 then return {answer.accepted, args.job_id, 0} end  -- asked again: the answer was lost
local schema = redis.call('GET', keys.schema)
if schema and tonumber(schema) ~= tonumber(args.schema) then return {answer.other_schema, schema, 0} end
if keys.idempotency then
  local known = redis.call('GET', keys.idempotency)
  if known then
    local id, digest = parse_request(known)
    return {digest == args.digest and answer.known or answer.conflict, id, 0}
  end
end
if redis.call('ZCARD', keys.live_jobs) >= tonumber(args.max_live_jobs) then return {answer.full, '', 0} end
local most = tonumber(args.max_tenant_jobs or 'inf')
if redis.call('ZCARD', keys.tenant_live_jobs) >= most then return {answer.tenant_full, '', 0} end
if args.upload and redis.call('ZREM', keys.uploads, args.upload) == 0 then return {answer.no_upload, '', 0} end
redis.call('HSET', keys.job, 'spec', args.spec, 'state', 'pending', 'created_at', now, 'tenant', args.tenant,
           'live_in', keys.tenant_live_jobs,
           'stages_open', #stages, 'stage_count', #stages, 'priority', args.priority)
local is_planned, token = false, 0
for number, one in ipairs(stages) do
  redis.call('HSET', one.keys.stage, 'cursor', '', 'planned', 0, 'operator_version', one.operator_version,
             'worked_for', one.worked_for, 'turn', one.turn)
  if one.joins then redis.call('HSET', one.keys.stage, 'joins', 1) end
  if args.any_version then redis.call('HSET', one.keys.stage, 'any_version', 1) end
  if one.buffer_bytes then redis.call('HSET', one.keys.stage, 'buffer_bytes', one.buffer_bytes) end
  if one.rows_total then redis.call('HSET', one.keys.stage, 'rows_total', one.rows_total, 'rows_exact', 1) end
  if one.plan then
    add_shard(one.keys.shard, one.keys.ready, one.keys.live_shards, one.shard_id, one.rows_total, one.plan)
    redis.call('HSET', one.keys.stage, 'cursor', one.cursor, 'planned', 1)
    is_planned = true
    local pool, below = string.match(one.worked_for, '^%S+'), tonumber(one.queue_below)
    if below and not has_ready(keys.index, pool) and flies_below(keys.index, pool, below) then
      token = queue_shard(one.keys, 'planned', args.job_id, number - 1, one.shard_id, now)
    end
  end
end
for number, one in ipairs(stages) do
  if one.plan then count_planned(keys.job, number - 1, one.rows_total, one.nbytes, 1) end
end
if is_planned then begin_job(keys.job, 'pending', now) end
if args.budget_nano then redis.call('HSET', keys.job, 'budget_nano', args.budget_nano) end
if args.deadline_ms then redis.call('HSET', keys.job, 'deadline_ms', args.deadline_ms) end
if args.ends_at_commit then redis.call('HSET', keys.job, 'ends_at_commit', 1) end
if args.announces then redis.call('HSET', keys.job, 'announces', args.announces) end
if args.inline_rows then redis.call('SET', keys.inline_input, args.inline_rows) end
if args.replay_of then redis.call('HSET', keys.job, 'replay_of', args.replay_of) end
if args.resumed_from then redis.call('HSET', keys.job, 'resumed_from', args.resumed_from, 'must_resume', 1) end
redis.call('ZADD', keys.jobs, now, args.job_id)
redis.call('ZADD', keys.live_jobs, now, args.job_id)
if args.reads_stream then redis.call('ZADD', keys.streams, now, args.job_id) end
redis.call('ZADD', keys.tenant_jobs, now, args.job_id)
redis.call('ZADD', keys.tenant_live_jobs, now, args.job_id)
if keys.idempotency then
  redis.call('SET', keys.idempotency, write_request(args.job_id, args.digest))
  redis.call('HSET', keys.job, 'idempotency_key', args.idempotency_key)
end
index_job(keys.index, keys.job, args.job_id, now)
if token == 0 then publish(args.channel, is_planned and 'planned' or 'submitted', args.job_id) end
return {answer.accepted, args.job_id, token}
