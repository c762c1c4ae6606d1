-- Take back queued attempts whose messages were taken out of their queue. Their shards wait to be queued again, at once.
-- What was claimed, unqueued or queued anew meanwhile is left alone.
--
-- @key leader
-- @key queued
-- @arg now: clock
-- @arg epoch: int
-- @each attempts
-- @key stage
-- @key shard
-- @key waiting
-- @arg attempt: attempt
-- @returns unqueued: int
if not leads(keys.leader, args.epoch) then return 0 end
local unqueued = 0
for _, item in ipairs(attempts) do
  if unqueue(item.keys.shard, item.keys.waiting, keys.queued, item.attempt, now) then
    redis.call('HINCRBY', item.keys.stage, 'shards_queued', -1)
    unqueued = unqueued + 1
  end
end
return unqueued
