-- Take a queued attempt under a lease, as a worker. Taking it twice by one holder is one claim (a lost reply is asked again).
--
-- @key job
-- @key index
-- @key stage
-- @key shard
-- @key queued
-- @key leases
-- @key waiting
-- @key inline_input
-- @arg now: clock
-- @arg attempt: attempt
-- @arg holder: text  "worker claim", one name a claim
-- @arg lease_ms: int
-- @arg with_job: flag  send the spec and the inline rows too
-- @arg price_nano: int  billionths an hour
-- @arg sharers: int  how many attempts share the process, this one included
-- @arg version: text  of the operator that the worker has; empty: not to be compared
-- @arg revision: text  the same with its code
-- @answers ok | stale | stopped | other revision
-- @returns plan: bytes
-- @returns failures: int
-- @returns losses: int
-- @returns checkpoint: text
-- @returns stalled_ms: int
-- @returns spec: bytes
-- @returns inline_rows: bytes
--
-- stale: it is not queued, or the holder is the worker of its straggler: then the shard waits for another worker.
-- stopped: the job takes no more work. other revision: the stage is bound to another one, and the shard waits again.
--
-- leases  sorted set: attempt scored by when the lease ends (ms)
-- metered  field of the shard, see `_encodings.lua`
-- claimed_at  field of the shard: when its present attempt was claimed (ms)
local OTHER_WORKER_DELAY_MS = 500
local MAX_OTHER_WORKER_DELAY_MS = 8000

local function refused(why)
  return {why, '', 0, 0, '', 0, '', ''}
end

-- The shard waits for another worker than this one.
local function leave(delay_ms)
  if unqueue(keys.shard, keys.waiting, keys.queued, args.attempt, now + delay_ms) then
    redis.call('HINCRBY', keys.stage, 'shards_queued', -1)
    index_job(keys.index, keys.job, args.attempt.job_id, now)
  end
end

local attempt = args.attempt
local state, token, holder = unpack(redis.call('HMGET', keys.shard, 'state', 'token', 'holder'))
local again = state == 'running' and holder == args.holder
if token ~= attempt.token or not (state == 'queued' or again) then return refused(answer.stale) end
if redis.call('HGET', keys.job, 'state') ~= 'running' then return refused(answer.stopped) end
local straggler, other = unpack(redis.call('HMGET', keys.shard, 'straggler', 'straggler_holder'))
if not again and other and worker_of(other) and worker_of(other) == worker_of(args.holder) then
  -- each time for twice as long: while all others are busy, it would come back each time
  local times = tonumber(attempt.token) - tonumber(straggler) - 1
  leave(math.min(OTHER_WORKER_DELAY_MS * 2 ^ times, MAX_OTHER_WORKER_DELAY_MS))
  return refused(answer.stale)
end
if not again and args.version ~= '' and redis.call('HEXISTS', keys.stage, 'any_version') == 0 then
  local version, revision = unpack(redis.call('HMGET', keys.stage, 'operator_version', 'revision'))
  local is_other = revision and revision ~= args.revision
  if is_other or (version and version ~= '' and version ~= args.version) then
    leave(OTHER_WORKER_DELAY_MS)
    return refused(answer.other_revision)
  end
  redis.call('HSET', keys.stage, 'operator_version', args.version, 'revision', args.revision)
end
if not again then
  move_shard(keys.shard, state, 'running')
  redis.call('HSET', keys.shard, 'holder', args.holder, 'claimed_at', now,
             'metered', write_metered(args.price_nano, 0, now, args.sharers))
  redis.call('ZREM', keys.queued, attempt.key)
  redis.call('HINCRBY', keys.stage, 'shards_queued', -1)
  redis.call('HINCRBY', keys.stage, 'shards_running', 1)
  index_job(keys.index, keys.job, attempt.job_id, now)
end
redis.call('ZADD', keys.leases, now + tonumber(args.lease_ms), attempt.key)
local plan, failures, losses, checkpoint, stalled_ms =
  unpack(redis.call('HMGET', keys.shard, 'plan', 'failures', 'losses', 'checkpoint', 'stalled_ms'))
local reply = {answer.ok, plan, failures, losses, checkpoint or '', stalled_ms or 0, '', ''}
if args.with_job then
  reply[7] = redis.call('HGET', keys.job, 'spec')
  reply[8] = redis.call('GET', keys.inline_input) or ''
end
return reply
