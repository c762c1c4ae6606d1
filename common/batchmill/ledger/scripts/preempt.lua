-- Ask an attempt to end at its next batch, since a job of far higher priority waits for a slot. Its worker hears of it as it
-- renews its lease, saves what is done, and releases the shard, which waits again.
--
-- @key leader
-- @key stage
-- @key shard
-- @key leases
-- @arg now: clock
-- @arg epoch: int
-- @arg attempt: attempt
-- @arg most: int  how often a shard may be asked
-- @answers ok | refused
--
-- refused: it does not run alone, was asked before, its shard was asked that often, or a deposed leader asks
--
-- preempted  field of the shard: the token of the attempt that was asked last
-- preemptions  field of the shard: how many were asked
-- shards_preempted  field of the stage: the sum over its shards
local attempt = args.attempt
if not leads(keys.leader, args.epoch) then return answer.refused end
if not is_attempt(keys.shard, 'running', attempt.token) then return answer.refused end
local straggler, preempted, times = unpack(redis.call('HMGET', keys.shard, 'straggler', 'preempted', 'preemptions'))
local ends = tonumber(redis.call('ZSCORE', keys.leases, attempt.key) or '0')
if straggler or preempted == attempt.token or ends <= now or tonumber(times or '0') >= tonumber(args.most) then
  return answer.refused
end
redis.call('HSET', keys.shard, 'preempted', attempt.token)
redis.call('HINCRBY', keys.shard, 'preemptions', 1)
redis.call('HINCRBY', keys.stage, 'shards_preempted', 1)
return answer.ok
