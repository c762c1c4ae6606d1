-- Queue a shard again while its attempt runs on, which takes far longer than expected: it becomes a straggler. The caller
-- then publishes the message of the new attempt. Whichever commits first has the shard, see `commit.lua`; the new attempt is
-- the one that fails, is lost and is retried like any other, and a straggler that ends without results is dropped.
--
-- @key leader
-- @key job
-- @key index
-- @key stage
-- @key shard
-- @key leases
-- @key queued
-- @arg now: clock
-- @arg epoch: int
-- @arg attempt: attempt
-- @returns token: int  0 when there is nothing to queue: it does not run, or has a straggler, or a deposed leader asks
local attempt = args.attempt
if not leads(keys.leader, args.epoch) then return 0 end
if redis.call('HGET', keys.job, 'state') ~= 'running' then return 0 end
if not is_attempt(keys.shard, 'running', attempt.token) then return 0 end
local straggler, holder, metered = unpack(redis.call('HMGET', keys.shard, 'straggler', 'holder', 'metered'))
local ends = tonumber(redis.call('ZSCORE', keys.leases, attempt.key) or '0')
if straggler or ends <= now then return 0 end
redis.call('HSET', keys.shard, 'straggler', attempt.token, 'straggler_holder', holder, 'straggler_metered', metered,
           'queued_in', keys.queued)
redis.call('HDEL', keys.shard, 'holder', 'metered')
redis.call('HINCRBY', keys.stage, 'stragglers', 1)
redis.call('HINCRBY', keys.stage, 'shards_speculated', 1)
redis.call('HINCRBY', keys.stage, 'shards_running', -1)
move_shard(keys.shard, 'running', 'queued')
local token = redis.call('HINCRBY', keys.shard, 'token', 1)
redis.call('ZADD', keys.queued, now, attempt_key(attempt.job_id, attempt.stage, attempt.shard_id, token))
redis.call('HSET', keys.stage, 'last_queued_at', now)
redis.call('HINCRBY', keys.stage, 'shards_queued', 1)
index_job(keys.index, keys.job, attempt.job_id, now)
return token
