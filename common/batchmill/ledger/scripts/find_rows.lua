-- Where the results of rows lie in the row cache, and a segment for those that are about to be computed.
--
-- KEYS  1 cache_index  2 cache_used  3 cache_loose  4 cache_totals
-- ARGV  1 now  2 digests, 16 bytes each  3 name of a new segment, 6 bytes  4 how long it may stay loose (ms)
-- Returns {1 if the new segment was taken (a row is missing), else 0, a place or false for each digest}
--
-- cache_used  sorted set: segments scored by when a row of them was last found or kept (ms)
-- cache_loose  sorted set: segments that are written or forgotten, scored by when the janitor deletes their blobs (ms)
-- cache_totals  hash: bytes (of segments), hits, misses, evicted (rows, ever)
local now, digests = now_ms(ARGV[1]), ARGV[2]
local reply, seen, hits = {0}, {}, 0
for first = 1, #digests, 16 * DIGESTS_AT_ONCE do
  for _, place in ipairs(redis.call('HMGET', KEYS[1], unpack(some_digests(digests, first)))) do
    reply[#reply + 1] = place
    if place then
      hits = hits + 1
      seen[string.sub(place, 1, 6)] = true
    end
  end
end
for segment in pairs(seen) do redis.call('ZADD', KEYS[2], 'XX', now, segment) end
local misses = #digests / 16 - hits
if hits > 0 then redis.call('HINCRBY', KEYS[4], 'hits', hits) end
if misses > 0 then
  redis.call('HINCRBY', KEYS[4], 'misses', misses)
  local known = redis.call('ZSCORE', KEYS[2], ARGV[3]) or redis.call('ZSCORE', KEYS[3], ARGV[3])
  if not known then
    redis.call('ZADD', KEYS[3], now + tonumber(ARGV[4]), ARGV[3])
    reply[1] = 1
  end
end
return reply
