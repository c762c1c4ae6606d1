-- Forget the uploads that began too long ago and that no job took; the caller then deletes their blobs.
--
-- @key uploads
-- @key leader
-- @arg now: clock
-- @arg epoch: int
-- @arg life_ms: int
-- @arg limit: int  most at a time
-- @returns forgotten: text*
if not leads(keys.leader, args.epoch) then return {} end
local before = now - tonumber(args.life_ms)
local old = redis.call('ZRANGEBYSCORE', keys.uploads, '-inf', before, 'LIMIT', 0, args.limit)
for _, id in ipairs(old) do redis.call('ZREM', keys.uploads, id) end
return old
