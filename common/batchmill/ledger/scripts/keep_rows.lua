-- Put a segment whose blob is written into the row cache; those unused for longest make room.
--
-- @key cache_index
-- @key cache_segments
-- @key cache_used
-- @key cache_loose
-- @key cache_totals
-- @arg now: clock
-- @arg segment: bytes  6 bytes
-- @arg nbytes: int  its size
-- @arg digests: bytes  16 bytes each
-- @arg places: bytes  in it, 8 bytes each
-- @arg max_bytes: int  of the cache
-- @arg max_rows: int
-- @arg max_forgotten: int  rows to forget in one call
-- @answers kept | known | no room | gone
--
-- known: the index has all its rows already; gone: it is not loose any more.
-- After 'known' and 'no room' the janitor deletes the blob, after 'gone' the caller does.
--
-- cache_index  hash: digest to segment (6 bytes) and place in it (8 bytes, the worker's)
-- cache_segments  hash: segment to "bytes digests": those that the index has from it, 16 bytes each
local segment, bytes, max_bytes, max_rows =
  args.segment, tonumber(args.nbytes), tonumber(args.max_bytes), tonumber(args.max_rows)
if redis.call('ZREM', keys.cache_loose, segment) == 0 then return answer.gone end
local digests, mine, pairs_of = args.digests, {}, {}
for first = 1, #digests, 16 * DIGESTS_AT_ONCE do
  local some = some_digests(digests, first)
  for number, known in ipairs(redis.call('HMGET', keys.cache_index, unpack(some))) do
    if not known then
      local at = (first - 1) / 2 + (number - 1) * 8
      mine[#mine + 1] = some[number]
      pairs_of[#pairs_of + 1] = some[number]
      pairs_of[#pairs_of + 1] = write_place(segment, string.sub(args.places, at + 1, at + 8))
    end
  end
end
local function refused(why)
  redis.call('ZADD', keys.cache_loose, 0, segment)
  return why
end
if #mine == 0 then return refused(answer.known) end
local function too_full()
  local held = tonumber(redis.call('HGET', keys.cache_totals, 'bytes') or '0')
  return held + bytes > max_bytes or redis.call('HLEN', keys.cache_index) + #mine > max_rows
end
if bytes > max_bytes or #mine > max_rows then return refused(answer.no_room) end
local forgotten = 0
while forgotten < tonumber(args.max_forgotten) and too_full() do
  local oldest = redis.call('ZRANGE', keys.cache_used, 0, 0)[1]
  if not oldest then break end
  forgotten = forgotten + drop_segment(keys, oldest)
end
if forgotten > 0 then redis.call('HINCRBY', keys.cache_totals, 'evicted', forgotten) end
if too_full() then return refused(answer.no_room) end
for first = 1, #pairs_of, 2000 do
  redis.call('HSET', keys.cache_index, unpack(pairs_of, first, math.min(first + 1999, #pairs_of)))
end
redis.call('HSET', keys.cache_segments, segment, write_segment(bytes, mine))
redis.call('ZADD', keys.cache_used, now, segment)
redis.call('HINCRBY', keys.cache_totals, 'bytes', bytes)
return answer.kept
