-- Keep a trial of a setting in the journal of an operator, in place of the one of that id.
--
-- @key trials
-- @key trials_used
-- @arg now: clock
-- @arg name: text
-- @arg trial_id: text
-- @arg trial: text  JSON
-- @arg max_trials: int
-- @arg max_names: int
-- @returns trials: int  how many there are of the operator
--
-- trials       hash: name to JSON, a list of trials, the oldest first
-- trials_used  sorted set: name by when it was written last (ms)
local stored = redis.call('HGET', keys.trials, args.name)
local trials = stored and cjson.decode(stored) or {}
local place = #trials + 1
for number = 1, #trials do
  if trials[number].id == args.trial_id then place = number end
end
trials[place] = cjson.decode(args.trial)
while #trials > tonumber(args.max_trials) do table.remove(trials, 1) end
redis.call('HSET', keys.trials, args.name, cjson.encode(trials))
redis.call('ZADD', keys.trials_used, now, args.name)
local oldest = redis.call('ZRANGE', keys.trials_used, 0, -1 - tonumber(args.max_names))
for _, name in ipairs(oldest) do
  redis.call('HDEL', keys.trials, name)
  redis.call('ZREM', keys.trials_used, name)
end
return #trials
