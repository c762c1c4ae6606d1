-- Keep the leases of attempts whose process lives, as its supervisor sees, even if it cannot renew them.
-- The process stays in the fleet too, unless it has taken itself out.
-- What their time is charged for is left as the process reported it last: if it dies, the time since then is charged too.
--
-- @key leases
-- @key workers_seen
-- @arg now: clock
-- @arg lease_ms: int
-- @arg worker: text
-- @each attempts
-- @key shard
-- @arg attempt: attempt
-- @returns kept: attempt*  those that the worker holds
redis.call('ZADD', keys.workers_seen, 'XX', 'GT', now + tonumber(args.lease_ms), args.worker)
local kept = {}
for _, item in ipairs(attempts) do
  local attempt = item.attempt
  local ends = tonumber(redis.call('ZSCORE', keys.leases, attempt.key) or -1)
  local straggles = is_straggler(item.keys.shard, attempt.token)
  local holder = redis.call('HGET', item.keys.shard, straggles and 'straggler_holder' or 'holder')
  if ends > 0 and holder and worker_of(holder) == args.worker
     and (straggles or is_attempt(item.keys.shard, 'running', attempt.token)) then
    redis.call('ZADD', keys.leases, math.max(ends, now + tonumber(args.lease_ms)), attempt.key)
    kept[#kept + 1] = attempt.key
  end
end
return kept
