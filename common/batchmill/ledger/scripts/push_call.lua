-- Let an interactive request wait for a worker that has its model loaded, unless too many do.
--
-- @key lane
-- @arg message: bytes
-- @arg max_waiting: int
-- @arg ttl_ms: int  how long the list is kept when nothing is pushed onto it any more
-- @answers ok | full
-- @returns waiting: int  how many were waiting before
--
-- lane  list: requests that wait, the oldest first; see `formats/lane_messages.py`
local waiting = redis.call('LLEN', keys.lane)
if waiting >= tonumber(args.max_waiting) then return {answer.full, waiting} end
redis.call('RPUSH', keys.lane, args.message)
redis.call('PEXPIRE', keys.lane, args.ttl_ms)
return {answer.ok, waiting}
