-- Take the oldest interactive request for a model that is not of certain tenants.
--
-- @key lane
-- @arg barred: text  the tenants, each between spaces
-- @answers ok | none
-- @returns message: bytes
--
-- A message begins with short fields, the tenant among them; see `LaneRequest`.
local step = 32
local waiting = redis.call('LLEN', keys.lane)
for first = 0, waiting - 1, step do
  for _, message in ipairs(redis.call('LRANGE', keys.lane, first, first + step - 1)) do
    local tenant = string.match(string.sub(message, 1, 512), '"tenant": "([^"]*)"')
    if not string.find(args.barred, ' ' .. (tenant or '') .. ' ', 1, true) then
      redis.call('LREM', keys.lane, 1, message)
      return {answer.ok, message}
    end
  end
end
return {answer.none, ''}
