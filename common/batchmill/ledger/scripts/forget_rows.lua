-- Forget segments of the row cache: some whose blobs are broken or gone, or all there are.
--
-- KEYS  1 cache_index  2 cache_segments  3 cache_used  4 cache_loose  5 cache_totals
-- ARGV  1… the segments (none: all, and the counters begin anew)
-- Returns how many rows were forgotten
if #ARGV > 0 then
  local rows = 0
  for _, segment in ipairs(ARGV) do
    rows = rows + drop_segment(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], segment)
  end
  return rows
end
local rows = redis.call('HLEN', KEYS[1])
redis.call('ZUNIONSTORE', KEYS[4], 2, KEYS[4], KEYS[3], 'WEIGHTS', 1, 0)
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[5])
return rows
