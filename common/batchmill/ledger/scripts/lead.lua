-- Take the lead when nobody has it, or keep it.
--
-- KEYS  1 leader  2 leader_epoch
-- ARGV  1 name of this coordinator (one a process)  2 lease (ms)
-- Returns the epoch under which this coordinator leads, or 0 when another one does
--
-- leader  string with a lease: "epoch name"; leader_epoch  counter
local leader = redis.call('GET', KEYS[1])
if leader then
  local epoch, name = string.match(leader, '^(%d+) (.*)$')
  if name ~= ARGV[1] then return 0 end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(epoch)
end
local epoch = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], epoch .. ' ' .. ARGV[1], 'PX', ARGV[2])
return epoch
