-- Give the lead back, if it is ours, so that a standby need not wait for the lease to end.
--
-- KEYS  1 leader
-- ARGV  1 name of this coordinator
-- Returns 1 when it was ours, else 0
local leader = redis.call('GET', KEYS[1])
if not leader or string.match(leader, '^%d+ (.*)$') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
