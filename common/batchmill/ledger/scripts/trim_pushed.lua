-- Delete the oldest rows of a stream that were sent to it. Their blobs are deleted before.
--
-- @key pushed
-- @key pushed_state
-- @key tenant_streams
-- @param tenant: text
-- @arg name: text
-- @each entries: PushedEntry
-- @arg offset: text
-- @arg nbytes: int
-- @returns deleted: int  entries
local deleted = 0
for _, entry in ipairs(entries) do
  if redis.call('XDEL', keys.pushed, entry.offset) == 1 then
    deleted = deleted + 1
    redis.call('HINCRBY', keys.pushed_state, 'nbytes', -entry.nbytes)
    redis.call('HINCRBY', keys.tenant_streams, args.name, -entry.nbytes)
  end
end
return deleted
