-- Note of which shards of a stage something is kept, and delete the entries of those whose blobs are gone.
--
-- @key leader
-- @key job
-- @key stage
-- @key done
-- @key borders
-- @param job_id: text
-- @param stage: int
-- @arg epoch: int
-- @arg before: text  as it was read
-- @arg after: text
-- @arg freed_before: text  how far its parts are freed, as it was read
-- @arg freed_after: text
-- @each deleted
-- @arg shard_id: shard_id
-- @answers ok | deposed | moved
--
-- moved: another leader was here, or the job is gone.
if not leads(keys.leader, args.epoch) then return answer.deposed end
local kept, freed = unpack(redis.call('HMGET', keys.stage, 'kept', 'freed'))
if (kept or '') ~= args.before or (freed or '') ~= args.freed_before or redis.call('EXISTS', keys.job) == 0 then
  return answer.moved
end
redis.call('HSET', keys.stage, 'kept', args.after)
if args.freed_after ~= args.freed_before then redis.call('HSET', keys.stage, 'freed', args.freed_after) end
for _, one in ipairs(deleted) do
  redis.call('HDEL', keys.done, one.shard_id)
  redis.call('HDEL', keys.borders, one.shard_id)
end
return answer.ok
