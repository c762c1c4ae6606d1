-- Find where the results of rows are in the row cache, and name a segment for those that are not there.
--
-- @key cache_index
-- @key cache_used
-- @key cache_loose
-- @key cache_totals
-- @arg now: clock
-- @arg digests: bytes  16 bytes each
-- @arg segment: bytes  name of a new one, 6 bytes
-- @arg loose_ms: int  how long it may stay loose
-- @returns taken: flag  the new segment was taken: a row is missing
-- @returns places: bytes?*  one for each digest, or nil
--
-- cache_used  sorted set: segments scored by when a row of them was last found or kept (ms)
-- cache_loose  sorted set: segments that are written or forgotten, scored by when the janitor deletes their blobs (ms)
-- cache_totals  hash: bytes (of segments), hits, misses, evicted (rows, ever)
local digests = args.digests
local reply, seen, hits = {0}, {}, 0
for first = 1, #digests, 16 * DIGESTS_AT_ONCE do
  for _, place in ipairs(redis.call('HMGET', keys.cache_index, unpack(some_digests(digests, first)))) do
    reply[#reply + 1] = place
    if place then
      hits = hits + 1
      seen[segment_of(place)] = true
    end
  end
end
for segment in pairs(seen) do redis.call('ZADD', keys.cache_used, 'XX', now, segment) end
local misses = #digests / 16 - hits
if hits > 0 then redis.call('HINCRBY', keys.cache_totals, 'hits', hits) end
if misses > 0 then
  redis.call('HINCRBY', keys.cache_totals, 'misses', misses)
  local known = redis.call('ZSCORE', keys.cache_used, args.segment) or redis.call('ZSCORE', keys.cache_loose, args.segment)
  if not known then
    redis.call('ZADD', keys.cache_loose, now + tonumber(args.loose_ms), args.segment)
    reply[1] = 1
  end
end
return reply
