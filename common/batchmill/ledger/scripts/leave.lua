-- A worker says that it goes.
--
-- KEYS  1 workers  2 workers_seen
-- ARGV  1 name
-- Returns 1 when it was known, else 0
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
