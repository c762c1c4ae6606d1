-- Keep what a worker has learned about the batches of an operator.
--
-- KEYS  1 profiles  2 profiles_used
-- ARGV  1 now  2 name  3 profile (JSON)  4 most profiles
-- Returns how many profiles made room
--
-- profiles  hash: name to JSON; profiles_used  sorted set: name by when it was written last (ms)
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], now_ms(ARGV[1]), ARGV[2])
local oldest = redis.call('ZRANGE', KEYS[2], 0, -1 - tonumber(ARGV[4]))
for _, name in ipairs(oldest) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return #oldest
