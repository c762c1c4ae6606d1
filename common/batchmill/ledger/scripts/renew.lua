-- Renew every lease a process holds in one call, and note what its attempts have used so far.
--
-- @key leases
-- @arg now: clock
-- @arg lease_ms: int
-- @each attempts: Renewal
-- @key job
-- @key shard
-- @arg attempt: attempt
-- @arg used_us: int
-- @answers ok | lost | paused | stopped | preempted
-- @returns each: answer*  one for each attempt
--
-- lost: the lease ran out and was taken away; stopped: the job is stopping or over; preempted: see `preempt.lua`.
local found = {}
for number, item in ipairs(attempts) do
  local attempt, shard = item.attempt, item.keys.shard
  if not redis.call('ZSCORE', keys.leases, attempt.key) then
    found[number] = answer.lost
  else
    redis.call('ZADD', keys.leases, now + tonumber(args.lease_ms), attempt.key)
    if is_attempt(shard, 'running', attempt.token) then
      redis.call('HSET', shard, 'metered', write_metered(price_of(shard), item.used_us, now, #attempts))
    elseif is_straggler(shard, attempt.token) then
      local reported = redis.call('HGET', shard, 'straggler_metered')
      redis.call('HSET', shard, 'straggler_metered',
                 write_metered(reported and parse_metered(reported).price or 0, item.used_us, now, #attempts))
    end
    local state = redis.call('HGET', item.keys.job, 'state')
    if state == 'running' then
      local is_preempted = redis.call('HGET', shard, 'preempted') == attempt.token
      found[number] = is_preempted and answer.preempted or answer.ok
    else
      found[number] = state == 'paused' and answer.paused or answer.stopped
    end
  end
end
return found
