-- A worker says that it is there, what it has loaded, and what its operators are.
--
-- KEYS  1 workers  2 workers_seen  3 operators
-- ARGV  1 now  2 name  3 description (JSON)  4 how long this holds (ms)  5 channel
--       6 '1': what it has loaded has changed  7… operator name, announcement (JSON), …
-- Returns the names of workers whose presence ended before now; they are forgotten
--
-- workers  hash: name to JSON; workers_seen  sorted set: name by when its presence ends (ms); operators  hash: name to JSON
local now = now_ms(ARGV[1])
local known = redis.call('HEXISTS', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[4]), ARGV[2])
for at = 7, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1]) end
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. now)
for _, name in ipairs(gone) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
if known == 0 or ARGV[6] == '1' then redis.call('PUBLISH', ARGV[5], 'worker ' .. ARGV[2]) end
return gone
