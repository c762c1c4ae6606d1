-- End an attempt before its shard is done: the shard waits for another one, or the job stops.
--
-- @key job
-- @key index
-- @key stage
-- @key shard
-- @key leases
-- @key waiting
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @arg now: clock
-- @arg attempt: attempt
-- @arg delay_ms: int  until the next attempt
-- @arg blame: flag  count it as a failure of the shard
-- @arg stop_with: text?  the error that stops the job (JSON)
-- @arg checkpoint: text?  blob with what is done of the shard; none: as before
-- @arg stalled_by: text?  why storage could not be used
-- @arg stalled_ms: int  how much longer the shard has waited for it, once the next attempt begins
-- @arg pause_for: text?  why the job is paused
-- @arg used: parts  what the attempt's time was spent on
-- @arg channel: channel
-- @answers ok | stale
--
-- stale: another attempt has the shard; a straggler is then dropped, and its job charged for it.
--
-- stalled  field of the job: the last `stalled_by`, until some of its rows are stored
-- paused_for  field of the job: the last `pause_for`, until it is resumed
-- stalled_ms  field of the shard: the sum over its last attempts that all ended so
local attempt = args.attempt
if is_straggler(keys.shard, attempt.token) then  -- what it did not finish, the other attempt does
  local used, parts = 0, parse_parts(args.used)
  for _, us in ipairs(parts) do used = used + us end
  local metered = redis.call('HGET', keys.shard, 'straggler_metered')
  redis.call('HSET', keys.shard, 'straggler_metered', write_metered(parse_metered(metered).price, used, now, 1))
  drop_straggler(keys, keys.leases, attempt, now, args.channel)
  index_job(keys.index, keys.job, attempt.job_id, now)
  publish(args.channel, 'failed', attempt.job_id)
  return answer.stale
end
if not is_attempt(keys.shard, 'running', attempt.token) then return answer.stale end
local bill = {price = price_of(keys.shard), parts = parse_parts(args.used), rows = 0}
charge(keys, attempt, bill, now, args.channel)
requeue(keys, keys.leases, attempt, now + tonumber(args.delay_ms), args.blame and 'failures' or nil)
if args.checkpoint then
  redis.call('HSET', keys.shard, 'checkpoint', args.checkpoint)
  redis.call('HDEL', keys.job, 'ends_at_commit')  -- its blob is to be deleted then
end
if args.stalled_by then
  redis.call('HINCRBY', keys.shard, 'stalled_ms', args.stalled_ms)
  redis.call('HSET', keys.job, 'stalled', args.stalled_by)
else
  redis.call('HDEL', keys.shard, 'stalled_ms')
  if args.checkpoint then redis.call('HDEL', keys.job, 'stalled') end
end
if args.pause_for then pause_job_for(keys.job, args.pause_for, now, args.channel, attempt.job_id) end
if args.stop_with then stop_job(keys.job, now, 'failing', args.stop_with) end
index_job(keys.index, keys.job, attempt.job_id, now)
publish(args.channel, 'failed', attempt.job_id)
return answer.ok
