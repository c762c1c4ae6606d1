-- Give the lead back, if it is ours, so that a standby need not wait for the lease to end.
--
-- @key leader
-- @arg name: text  of this coordinator
-- @returns was_ours: flag
local leader = redis.call('GET', keys.leader)
if not leader then return 0 end
local _, name = parse_leader(leader)
if name ~= args.name then return 0 end
redis.call('DEL', keys.leader)
return 1
