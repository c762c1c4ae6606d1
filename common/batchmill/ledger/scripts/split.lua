-- Replace a shard that was lost too often by its two halves, as the recoverer.
--
-- @key job
-- @key index
-- @key stage
-- @key shard
-- @key leases
-- @key waiting
-- @key leader
-- @key done
-- @key live_shards
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @arg now: clock
-- @arg epoch: int
-- @arg attempt: attempt
-- @arg channel: channel
-- @each halves: Half
-- @key shard
-- @arg shard_id: shard_id
-- @arg rows: int
-- @arg plan: text
-- @arg losses: int
-- @arg checkpoint: text
-- @answers ok | deposed | alive | stale | dropped
--
-- alive: the lease was renewed after all; stale: the attempt is over. dropped: it was a straggler.
--
-- done  hash: the id of a split shard to how many took over, see `_encodings.lua`
local attempt = args.attempt
local refusal = why_not_lost(keys, args.epoch, attempt, now, args.channel)
if refusal then return answer[refusal] end
local ends = redis.call('ZSCORE', keys.leases, attempt.key) or now
charge_lost(keys, attempt, ends, now, args.channel, redis.call('HGET', keys.shard, 'metered'))
local straggler = redis.call('HGET', keys.shard, 'straggler')
if straggler then drop_straggler(keys, keys.leases, sibling(attempt, straggler), now, args.channel) end
move_shard(keys.shard, 'running', 'split')
redis.call('DEL', keys.shard)
redis.call('ZREM', keys.leases, attempt.key)
redis.call('SREM', keys.live_shards, attempt.shard_id)
redis.call('HSET', keys.done, attempt.shard_id, write_split_up(#halves))
local number = tonumber(attempt.stage) + 1
while is_joined(keys.job, number) do
  redis.call('HSET', stage_keys(keys.job, number).done, attempt.shard_id, write_split_up(#halves))
  number = number + 1
end
for _, half in ipairs(halves) do
  redis.call('HSET', half.keys.shard, 'state', 'waiting', 'token', attempt.token, 'rows', half.rows, 'plan', half.plan,
             'failures', 0, 'losses', half.losses, 'checkpoint', half.checkpoint)
  redis.call('SADD', keys.live_shards, half.shard_id)
  redis.call('ZADD', keys.waiting, now, half.shard_id)
end
redis.call('HINCRBY', keys.stage, 'shards_running', -1)
redis.call('HINCRBY', keys.stage, 'shards_live', 1)
index_job(keys.index, keys.job, attempt.job_id, now)
publish(args.channel, 'lost', attempt.job_id)
return answer.ok
