-- Take the queued shards of a stage of a paused job back. They wait for the job, so that its messages take no room in its pool.
-- A message that is still on its way finds its attempt gone.
--
-- @key leader
-- @key job
-- @key stage
-- @key waiting
-- @key queued
-- @arg now: clock
-- @arg epoch: int
-- @each live
-- @key shard
-- @arg attempt: attempt
-- @returns unqueued: int
if not leads(keys.leader, args.epoch) then return 0 end
if redis.call('HGET', keys.job, 'state') ~= 'paused' then return 0 end
local unqueued = 0
for _, item in ipairs(live) do
  if unqueue(item.keys.shard, keys.waiting, keys.queued, item.attempt, now) then unqueued = unqueued + 1 end
end
if unqueued > 0 then redis.call('HINCRBY', keys.stage, 'shards_queued', -unqueued) end
return unqueued
