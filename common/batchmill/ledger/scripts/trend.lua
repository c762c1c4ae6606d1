-- Add what a worker took for rows of a job to the history of an operator on a type of device, one point a job.
--
-- @key trends
-- @key trends_used
-- @arg now: clock
-- @arg name: text
-- @arg job: text
-- @arg units: float  of cost
-- @arg useful_us: int
-- @arg padding_us: int
-- @arg idle_us: int
-- @arg facts: text  JSON: what may change it
-- @arg max_points: int
-- @arg max_trends: int
-- @returns points: int  how many there are
--
-- trends       hash: name to JSON, a list of points, the oldest first
-- trends_used  sorted set: name by when it was written last (ms)
local stored = redis.call('HGET', keys.trends, args.name)
local points = stored and cjson.decode(stored) or {}
local point
for place = #points, 1, -1 do
  if points[place].job == args.job then
    point = points[place]
    break
  end
end
if not point then
  point = {job = args.job, at = now, units = 0, useful_us = 0, padding_us = 0, idle_us = 0}
  points[#points + 1] = point
end
point.units = point.units + tonumber(args.units)
point.useful_us = point.useful_us + tonumber(args.useful_us)
point.padding_us = point.padding_us + tonumber(args.padding_us)
point.idle_us = point.idle_us + tonumber(args.idle_us)
point.facts = args.facts
while #points > tonumber(args.max_points) do table.remove(points, 1) end
redis.call('HSET', keys.trends, args.name, cjson.encode(points))
redis.call('ZADD', keys.trends_used, now, args.name)
local oldest = redis.call('ZRANGE', keys.trends_used, 0, -1 - tonumber(args.max_trends))
for _, name in ipairs(oldest) do
  redis.call('HDEL', keys.trends, name)
  redis.call('ZREM', keys.trends_used, name)
end
return #points
