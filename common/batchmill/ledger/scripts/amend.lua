-- Put what a replay brought into the place of a settled shard's results, if the shard still stands as it was read.
--
-- KEYS  1 leader  2 job  3 done  4 inline_results  5 dead_counts
-- ARGV  1 epoch  2 shard id  3 its entry as read  4 its entry from now on  5 more rows done  6 fewer dead rows
--       7 channel  8 job id  9… error type, how many more dead rows of that type (below 0: fewer), …
-- Returns 'ok' | 'deposed' | 'stale' (the entry is another one by now, or the job is gone)
if not leads(KEYS[1], ARGV[1]) then return 'deposed' end
if redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then return 'stale' end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[4])
redis.call('HINCRBY', KEYS[2], 'rows_done', ARGV[5])
redis.call('HINCRBY', KEYS[2], 'rows_dead', -tonumber(ARGV[6]))
local inline = redis.call('HSTRLEN', KEYS[4], ARGV[2])
if inline > 0 then
  redis.call('HDEL', KEYS[4], ARGV[2])
  redis.call('HINCRBY', KEYS[2], 'inline_bytes', -inline)
end
for at = 9, #ARGV, 2 do
  local kind = ARGV[at]
  if redis.call('HEXISTS', KEYS[5], kind) == 0 and redis.call('HEXISTS', KEYS[5], 'other') == 1 then kind = 'other' end
  if redis.call('HINCRBY', KEYS[5], kind, ARGV[at + 1]) <= 0 then redis.call('HDEL', KEYS[5], kind) end
end
redis.call('PUBLISH', ARGV[7], 'amended ' .. ARGV[8])
return 'ok'
