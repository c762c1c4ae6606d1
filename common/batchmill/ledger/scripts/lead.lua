-- Take the lead when nobody has it, or keep it. One that lasts much longer than its holder's lease was taken before the
-- clock went back: it counts as over, and the epoch deposes its holder. Coordinators may have leases of different
-- lengths, so the holder's own is what counts.
--
-- @key leader
-- @key leader_epoch
-- @arg name: text  of this coordinator, one a process
-- @arg lease_ms: int
-- @returns epoch: int  under which this coordinator leads, or 0 when another one does
--
-- leader  string with a lease: "epoch name lease_ms"; leader_epoch  counter
local leader = redis.call('GET', keys.leader)
if leader then
  local epoch, name, lease_ms = parse_leader(leader)
  if name == args.name then
    redis.call('PEXPIRE', keys.leader, args.lease_ms)
    return tonumber(epoch)
  end
  if redis.call('PTTL', keys.leader) <= 2 * (lease_ms or tonumber(args.lease_ms)) then return 0 end
end
local epoch = redis.call('INCR', keys.leader_epoch)
redis.call('SET', keys.leader, write_leader(epoch, args.name, args.lease_ms), 'PX', args.lease_ms)
return epoch
