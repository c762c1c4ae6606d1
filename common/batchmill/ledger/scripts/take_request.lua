-- Ask whether a worker may send a request to a service whose limits all workers share, and take its share if so.
--
-- Each limit is a virtual schedule: a request moves the time by which all are paid for forward, by what it takes of a minute.
-- It may go while that time is at most `BURST_MS` ahead. (The generic cell rate algorithm, ITU-T I.371.)
--
-- @key endpoint
-- @arg now: clock
-- @arg requests: int  that it takes in a minute; 0: any number
-- @arg tokens: int  the same of tokens
-- @arg taken: int  tokens that the request may have; below 0: there is none, only what follows counts
-- @arg returned: int  tokens that requests before it have taken and not had
-- @arg hold_ms: int  how long the service has asked to be left alone; 0: it has not
-- @returns wait_ms: int  how long to wait and ask again; 0: it may go
--
-- endpoint  hash: requests_at, tokens_at (by when all is paid for), not_before (ms); goes an hour after its last use
local BURST_MS, LIFE_MS = 6000, 3600000

local requests_at, tokens_at, not_before = unpack(redis.call('HMGET', keys.endpoint, 'requests_at', 'tokens_at', 'not_before'))
local requests, tokens, taken = tonumber(args.requests), tonumber(args.tokens), tonumber(args.taken)
requests_at, tokens_at = math.max(tonumber(requests_at or '0'), now), math.max(tonumber(tokens_at or '0'), now)
not_before = tonumber(not_before or '0')
if tokens > 0 then tokens_at = math.max(tokens_at - tonumber(args.returned) * 60000 / tokens, now) end
if tonumber(args.hold_ms) > 0 then not_before = math.max(not_before, now + tonumber(args.hold_ms)) end

local wait_ms = math.max(not_before - now, 0)
if requests > 0 then wait_ms = math.max(wait_ms, requests_at - now - BURST_MS) end
if tokens > 0 then wait_ms = math.max(wait_ms, tokens_at - now - BURST_MS) end
if wait_ms <= 0 and taken >= 0 then
  if requests > 0 then requests_at = requests_at + 60000 / requests end
  if tokens > 0 then tokens_at = tokens_at + taken * 60000 / tokens end
end
redis.call('HSET', keys.endpoint, 'requests_at', requests_at, 'tokens_at', tokens_at, 'not_before', not_before)
redis.call('PEXPIRE', keys.endpoint, LIFE_MS)
return math.ceil(wait_ms)
