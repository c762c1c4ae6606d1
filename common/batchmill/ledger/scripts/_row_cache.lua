-- Of digests of 16 bytes that follow each other in a text, those from a place on, as many as one command takes.
local DIGESTS_AT_ONCE = 1000
local function some_digests(text, first)
  local some = {}
  for at = first, math.min(first + 16 * DIGESTS_AT_ONCE, #text + 1) - 16, 16 do
    some[#some + 1] = string.sub(text, at, at + 15)
  end
  return some
end

-- A segment of the row cache is forgotten: what the index has of it goes, and its blob is due to be deleted.
-- Returns how many rows that were.
local function drop_segment(keys, segment)
  local record = redis.call('HGET', keys.cache_segments, segment)
  redis.call('ZREM', keys.cache_used, segment)
  if not record then return 0 end
  local bytes, digests = parse_segment(record)
  local rows = 0
  for first = 1, #digests, 16 * DIGESTS_AT_ONCE do
    rows = rows + redis.call('HDEL', keys.cache_index, unpack(some_digests(digests, first)))
  end
  redis.call('HDEL', keys.cache_segments, segment)
  redis.call('HINCRBY', keys.cache_totals, 'bytes', -bytes)
  redis.call('ZADD', keys.cache_loose, 0, segment)
  return rows
end
