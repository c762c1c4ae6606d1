-- Find out in which data formats this ledger is kept. An empty one, where nobody works, takes the caller's.
-- One from before there was this key is taken for version 1.
--
-- @key schema
-- @key jobs
-- @key workers_seen
-- @arg now: clock
-- @arg version: int  the caller's
-- @returns found: int  the version that holds
--
-- schema  string: a number
local known = redis.call('GET', keys.schema)
local is_empty = redis.call('EXISTS', keys.jobs) == 0 and redis.call('ZCOUNT', keys.workers_seen, now, '+inf') == 0
if is_empty then known = args.version end
redis.call('SET', keys.schema, known or '1')
return tonumber(known or '1')
