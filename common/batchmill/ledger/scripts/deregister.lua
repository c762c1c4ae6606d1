-- Remove a worker that ends.
--
-- @key workers
-- @key workers_seen
-- @arg worker: text
-- @returns was_known: flag
redis.call('ZREM', keys.workers_seen, args.worker)
return redis.call('HDEL', keys.workers, args.worker)
