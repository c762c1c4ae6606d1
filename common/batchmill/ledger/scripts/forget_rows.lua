-- Forget segments of the row cache: some whose blobs are broken or gone, or all there are.
--
-- @key cache_index
-- @key cache_segments
-- @key cache_used
-- @key cache_loose
-- @key cache_totals
-- @arg everything: flag  all of them, and the counters begin anew
-- @each broken
-- @arg segment: bytes
-- @returns rows: int  how many were forgotten
local rows = 0
if args.everything then
  rows = redis.call('HLEN', keys.cache_index)
  redis.call('ZUNIONSTORE', keys.cache_loose, 2, keys.cache_loose, keys.cache_used, 'WEIGHTS', 1, 0)
  redis.call('UNLINK', keys.cache_index, keys.cache_segments, keys.cache_used, keys.cache_totals)
else
  for _, item in ipairs(broken) do rows = rows + drop_segment(keys, item.segment) end
end
return rows
