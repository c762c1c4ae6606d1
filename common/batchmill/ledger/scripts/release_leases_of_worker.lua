-- Take back the attempts of a worker process that is dead, as its supervisor found. The leases of attempts that may be to
-- blame end now, for the recoverer to judge; the other attempts of that process are requeued at once, and not blamed.
--
-- @key leases
-- @key index
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @arg now: clock
-- @arg worker: text
-- @arg channel: channel
-- @each attempts: Release
-- @key job
-- @key stage
-- @key shard
-- @key waiting
-- @arg attempt: attempt
-- @arg blamed: flag  it may have ended the process
-- @returns held: attempt*  those that the process held
local held = {}
for _, item in ipairs(attempts) do
  local attempt = item.attempt
  local straggles = is_straggler(item.keys.shard, attempt.token)
  local holder = redis.call('HGET', item.keys.shard, straggles and 'straggler_holder' or 'holder')
  local ends = redis.call('ZSCORE', keys.leases, attempt.key)
  if ends and holder and worker_of(holder) == args.worker
     and (straggles or is_attempt(item.keys.shard, 'running', attempt.token)) then
    if item.blamed then
      redis.call('ZADD', keys.leases, -now, attempt.key)
    else
      item.keys.cost_tenants, item.keys.cost_pools, item.keys.cost_days =
        keys.cost_tenants, keys.cost_pools, keys.cost_days
      if straggles then
        drop_straggler(item.keys, keys.leases, attempt, now, args.channel)
      else
        charge_lost(item.keys, attempt, ends, now, args.channel, redis.call('HGET', item.keys.shard, 'metered'))
        requeue(item.keys, keys.leases, attempt, now)
      end
      index_job(keys.index, item.keys.job, attempt.job_id, now)
      publish(args.channel, 'lost', attempt.job_id)
    end
    held[#held + 1] = attempt.key
  end
end
return held
