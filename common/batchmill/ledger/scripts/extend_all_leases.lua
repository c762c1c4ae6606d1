-- Note that the recoverer looks at the leases, and extend them if nobody could for long. If the pause was so great that
-- live workers may have missed a renewal, because Redis was away or did not answer, every lease begins anew: nobody is
-- to blame. Leases that a supervisor has ended are left as they are. It is the same after a time without any lease, in
-- which nobody notes that he looked. After the clock has gone back, leases that end later than any can do are cut.
--
-- @key leases
-- @key leases_seen
-- @key leader
-- @arg now: clock
-- @arg epoch: int
-- @arg lease_ms: int
-- @arg missed_ms: int  how long nobody may have looked
-- @answers ok | deposed
-- @returns extended: int  how many leases that had run out begin anew
--
-- leases_seen  string: when a leader last looked at the leases (ms)
if not leads(keys.leader, args.epoch) then return {answer.deposed, 0} end
if redis.call('ZCARD', keys.leases) == 0 then return {answer.ok, 0} end
local seen = tonumber(redis.call('GET', keys.leases_seen) or '0')
redis.call('SET', keys.leases_seen, now)
local ends = now + tonumber(args.lease_ms)
if now < seen then
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.leases, '(' .. ends, '+inf')) do
    redis.call('ZADD', keys.leases, ends, member)
  end
end
if now - seen <= tonumber(args.missed_ms) then return {answer.ok, 0} end
local extended = redis.call('ZCOUNT', keys.leases, '(0', now)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys.leases, '(0', '(' .. ends)) do
  redis.call('ZADD', keys.leases, ends, member)
end
return {answer.ok, extended}
