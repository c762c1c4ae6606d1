-- Give a planned or waiting shard its next token and count it as queued; the caller then publishes its message.
--
-- @key leader
-- @key job
-- @key index
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
if state ~= 'planned' and state ~= 'waiting' then return 0 end
local token = queue_shard(keys, state, args.job_id, args.stage, args.shard_id, now)
index_job(keys.index, keys.job, args.job_id, now)
return token
