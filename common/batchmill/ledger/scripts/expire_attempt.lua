-- Take a shard back from an attempt whose lease ran out, as the recoverer.
--
-- @key job
-- @key index
-- @key stage
-- @key shard
-- @key leases
-- @key waiting
-- @key leader
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @arg now: clock
-- @arg epoch: int
-- @arg attempt: attempt
-- @arg delay_ms: int  until the next attempt
-- @arg stop_with: text?  the error that stops the job (JSON)
-- @arg channel: channel
-- @answers ok | deposed | alive | stale | dropped
--
-- alive: the lease was renewed after all; stale: the attempt is over, and its lease is dropped. dropped: it was a straggler,
-- whose shard is another attempt's.
local attempt = args.attempt
local refusal = why_not_lost(keys, args.epoch, attempt, now, args.channel)
if refusal then return answer[refusal] end
local ends = redis.call('ZSCORE', keys.leases, attempt.key) or now
charge_lost(keys, attempt, ends, now, args.channel, redis.call('HGET', keys.shard, 'metered'))
requeue(keys, keys.leases, attempt, now + tonumber(args.delay_ms), 'losses')
if args.stop_with then stop_job(keys.job, now, 'failing', args.stop_with) end
index_job(keys.index, keys.job, attempt.job_id, now)
publish(args.channel, 'lost', attempt.job_id)
return answer.ok
