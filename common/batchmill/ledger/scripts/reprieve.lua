-- The recoverer is about to look at the leases. If nobody has for so long that workers which live may have missed a
-- renewal, because Redis was away or stood still, every lease begins anew: nobody is to blame. Leases that a supervisor
-- has ended are left as they are. It is the same after a time without any lease, in which nobody notes that he looked.
--
-- KEYS  1 leases  2 leases_seen  3 leader
-- ARGV  1 now  2 epoch  3 lease (ms)  4 how long nobody may have looked (ms)
-- Returns how many leases that had run out begin anew, or 'deposed'
--
-- leases_seen  string: when a leader last looked at the leases (ms)
if not leads(KEYS[3], ARGV[2]) then return 'deposed' end
if redis.call('ZCARD', KEYS[1]) == 0 then return 0 end
local now = now_ms(ARGV[1])
local seen = tonumber(redis.call('GET', KEYS[2]) or '0')
redis.call('SET', KEYS[2], now)
if now - seen <= tonumber(ARGV[4]) then return 0 end
local ends, spared = now + tonumber(ARGV[3]), redis.call('ZCOUNT', KEYS[1], '(0', now)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(0', '(' .. ends)) do
  redis.call('ZADD', KEYS[1], ends, member)
end
return spared
