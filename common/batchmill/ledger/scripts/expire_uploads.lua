-- Forget the uploads that began too long ago and that no job took; the caller then deletes their blobs.
--
-- KEYS  1 uploads  2 leader
-- ARGV  1 now  2 epoch  3 their life (ms)  4 most at a time
-- Returns the ids of the forgotten uploads
if not leads(KEYS[2], ARGV[2]) then return {} end
local before = now_ms(ARGV[1]) - tonumber(ARGV[3])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[4])
for _, id in ipairs(old) do redis.call('ZREM', KEYS[1], id) end
return old
