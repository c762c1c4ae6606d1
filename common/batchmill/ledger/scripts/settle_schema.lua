-- Find out in which data formats this ledger is kept; an empty one, where nobody works, takes the caller's.
-- One from before there was this key is taken for version 1.
--
-- KEYS  1 schema  2 jobs  3 workers_seen
-- ARGV  1 now  2 the caller's version
-- Returns the version that holds
--
-- schema  string: a number
local known = redis.call('GET', KEYS[1])
local is_empty = redis.call('EXISTS', KEYS[2]) == 0
  and redis.call('ZCOUNT', KEYS[3], now_ms(ARGV[1]), '+inf') == 0
if is_empty then known = ARGV[2] end
redis.call('SET', KEYS[1], known or '1')
return tonumber(known or '1')
