-- Take the lead when nobody has it, or keep it. One that lasts longer than any was taken before the clock went back: it
-- counts as over, and the epoch deposes its holder.
--
-- @key leader
-- @key leader_epoch
-- @arg name: text  of this coordinator, one a process
-- @arg lease_ms: int
-- @returns epoch: int  under which this coordinator leads, or 0 when another one does
--
-- leader  string with a lease: "epoch name"; leader_epoch  counter
local leader = redis.call('GET', keys.leader)
if leader then
  local epoch, name = parse_leader(leader)
  if name == args.name then
    redis.call('PEXPIRE', keys.leader, args.lease_ms)
    return tonumber(epoch)
  end
  if redis.call('PTTL', keys.leader) <= 2 * tonumber(args.lease_ms) then return 0 end
end
local epoch = redis.call('INCR', keys.leader_epoch)
redis.call('SET', keys.leader, write_leader(epoch, args.name), 'PX', args.lease_ms)
return epoch
