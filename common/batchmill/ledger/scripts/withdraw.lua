-- Take back queued attempts whose messages were taken out of their queue: their shards wait to be queued again, at once.
--
-- KEYS  1 leader  2 queued  then for each attempt: job, shard, waiting
-- ARGV  1 now  2 epoch  then for each attempt: member, "stage shard"
-- Returns how many were taken back; what was claimed, recalled or queued anew meanwhile is left alone
if not leads(KEYS[1], ARGV[2]) then return 0 end
local now, withdrawn = now_ms(ARGV[1]), 0
for at = 3, #KEYS, 3 do
  local member, name = ARGV[3 + 2 * (at - 3) / 3], ARGV[4 + 2 * (at - 3) / 3]
  local state, token = unpack(redis.call('HMGET', KEYS[at + 1], 'state', 'token'))
  if state == 'queued' and string.match(member, '|(%d+)$') == token then
    redis.call('HSET', KEYS[at + 1], 'state', 'waiting')
    redis.call('ZREM', KEYS[2], member)
    redis.call('ZADD', KEYS[at + 2], now, name)
    redis.call('HINCRBY', KEYS[at], 'shards_queued', -1)
    withdrawn = withdrawn + 1
  end
end
return withdrawn
