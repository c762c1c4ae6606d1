-- Name the blob with what a running attempt has done so far, for the next attempt if this one is lost.
--
-- @key job
-- @key shard
-- @arg attempt: attempt
-- @arg checkpoint: text
-- @answers ok | stale
if not is_attempt(keys.shard, 'running', args.attempt.token) then return answer.stale end
redis.call('HSET', keys.shard, 'checkpoint', args.checkpoint)
redis.call('HDEL', keys.job, 'ends_at_commit')  -- its blob is to be deleted then
return answer.ok
