-- Give a planned or waiting shard its next token and count it as queued; the caller then publishes its message.
--
-- @key leader
-- @key job
-- @key stage
-- @key shard
-- @key ready
-- @key waiting
-- @key queued
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg stage: int
-- @arg shard_id: shard_id
-- @returns token: int  0 when there is nothing to queue: settled, running, paused, stopping, or a deposed leader asks
if not leads(keys.leader, args.epoch) then return 0 end
if redis.call('HGET', keys.job, 'state') ~= 'running' then return 0 end
local state = redis.call('HGET', keys.shard, 'state')
if not state or not may_move_shard(state, 'queued') then return 0 end
if state == 'planned' then
  redis.call('LREM', keys.ready, 1, args.shard_id)
else
  redis.call('ZREM', keys.waiting, args.shard_id)
end
local token = redis.call('HINCRBY', keys.shard, 'token', 1)
move_shard(keys.shard, state, 'queued')
redis.call('ZADD', keys.queued, now, attempt_key(args.job_id, args.stage, args.shard_id, token))
redis.call('HSET', keys.stage, 'last_queued_at', now)
redis.call('HINCRBY', keys.stage, 'shards_queued', 1)
return token
