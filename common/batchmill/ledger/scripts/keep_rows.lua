-- Put a segment whose blob is written into the row cache; those unused for longest make room.
--
-- KEYS  1 cache_index  2 cache_segments  3 cache_used  4 cache_loose  5 cache_totals
-- ARGV  1 now  2 segment, 6 bytes  3 its size in bytes  4 digests, 16 bytes each  5 places in it, 8 bytes each
--       6 most bytes  7 most rows  8 most rows to forget in one call
-- Returns 'kept' | 'known' (the index has all its rows already) | 'no room' | 'gone' (it is not loose any more)
-- After 'known' and 'no room' the janitor deletes the blob, after 'gone' the caller does.
--
-- cache_index  hash: digest to segment (6 bytes) and place in it (8 bytes, the worker's)
-- cache_segments  hash: segment to "bytes digests": those that the index has from it, 16 bytes each
local now, segment, bytes = now_ms(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if redis.call('ZREM', KEYS[4], segment) == 0 then return 'gone' end
local digests, places, mine, pairs_of = ARGV[4], ARGV[5], {}, {}
for first = 1, #digests, 16 * DIGESTS_AT_ONCE do
  local some = some_digests(digests, first)
  for number, known in ipairs(redis.call('HMGET', KEYS[1], unpack(some))) do
    if not known then
      local at = (first - 1) / 2 + (number - 1) * 8
      mine[#mine + 1] = some[number]
      pairs_of[#pairs_of + 1] = some[number]
      pairs_of[#pairs_of + 1] = segment .. string.sub(places, at + 1, at + 8)
    end
  end
end
local function refused(word)
  redis.call('ZADD', KEYS[4], 0, segment)
  return word
end
if #mine == 0 then return refused('known') end
local function too_full()
  local held = tonumber(redis.call('HGET', KEYS[5], 'bytes') or '0')
  return held + bytes > tonumber(ARGV[6]) or redis.call('HLEN', KEYS[1]) + #mine > tonumber(ARGV[7])
end
if bytes > tonumber(ARGV[6]) or #mine > tonumber(ARGV[7]) then return refused('no room') end
local forgotten = 0
while forgotten < tonumber(ARGV[8]) and too_full() do
  local oldest = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if not oldest then break end
  forgotten = forgotten + drop_segment(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], oldest)
end
if forgotten > 0 then redis.call('HINCRBY', KEYS[5], 'evicted', forgotten) end
if too_full() then return refused('no room') end
for first = 1, #pairs_of, 2000 do
  redis.call('HSET', KEYS[1], unpack(pairs_of, first, math.min(first + 1999, #pairs_of)))
end
redis.call('HSET', KEYS[2], segment, ARGV[3] .. ' ' .. table.concat(mine))
redis.call('ZADD', KEYS[3], now, segment)
redis.call('HINCRBY', KEYS[5], 'bytes', bytes)
return 'kept'
