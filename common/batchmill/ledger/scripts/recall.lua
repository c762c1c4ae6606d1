-- Take the queued shards of a paused job back, so that its messages take no room in its pool: they wait for the job.
-- A message that is still on its way finds its attempt gone.
--
-- KEYS  1 leader  2 job  3 waiting  4 queued  5… the shard key of each live shard
-- ARGV  1 now  2 epoch  then for each shard: its attempt (member), "stage shard"
-- Returns how many were taken back
if not leads(KEYS[1], ARGV[2]) then return 0 end
if redis.call('HGET', KEYS[2], 'state') ~= 'paused' then return 0 end
local now, recalled = now_ms(ARGV[1]), 0
for at = 5, #KEYS do
  local member = ARGV[3 + 2 * (at - 5)]
  local state, token = unpack(redis.call('HMGET', KEYS[at], 'state', 'token'))
  if state == 'queued' and string.match(member, '|(%d+)$') == token then
    redis.call('HSET', KEYS[at], 'state', 'waiting')
    redis.call('ZREM', KEYS[4], member)
    redis.call('ZADD', KEYS[3], now, ARGV[4 + 2 * (at - 5)])
    recalled = recalled + 1
  end
end
if recalled > 0 then redis.call('HINCRBY', KEYS[2], 'shards_queued', -recalled) end
return recalled
