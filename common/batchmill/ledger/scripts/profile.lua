-- Keep what a worker has learned about the batches of an operator.
--
-- @key profiles
-- @key profiles_used
-- @arg now: clock
-- @arg name: text
-- @arg profile: text  JSON
-- @arg max_profiles: int
-- @returns dropped: int  how many profiles made room
--
-- profiles  hash: name to JSON; profiles_used  sorted set: name by when it was written last (ms)
redis.call('HSET', keys.profiles, args.name, args.profile)
redis.call('ZADD', keys.profiles_used, now, args.name)
local oldest = redis.call('ZRANGE', keys.profiles_used, 0, -1 - tonumber(args.max_profiles))
for _, name in ipairs(oldest) do
  redis.call('HDEL', keys.profiles, name)
  redis.call('ZREM', keys.profiles_used, name)
end
return #oldest
