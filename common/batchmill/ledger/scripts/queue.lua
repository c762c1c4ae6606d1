-- Give a planned or waiting shard its next token and count it as queued; the caller then publishes its message.
--
-- KEYS  1 leader  2 job  3 shard  4 ready  5 waiting  6 queued
-- ARGV  1 now  2 epoch  3 "stage shard"  4 member without the token ("job|stage|shard|")
-- Returns the token, or 0 when there is nothing to queue (settled, running, paused, stopping, or a deposed leader asks)
if not leads(KEYS[1], ARGV[2]) then return 0 end
if redis.call('HGET', KEYS[2], 'state') ~= 'running' then return 0 end
local state = redis.call('HGET', KEYS[3], 'state')
if state == 'planned' then
  redis.call('LREM', KEYS[4], 1, ARGV[3])
elseif state == 'waiting' then
  redis.call('ZREM', KEYS[5], ARGV[3])
else
  return 0
end
local now = now_ms(ARGV[1])
local token = redis.call('HINCRBY', KEYS[3], 'token', 1)
redis.call('HSET', KEYS[3], 'state', 'queued')
redis.call('ZADD', KEYS[6], now, ARGV[4] .. token)
redis.call('HSET', KEYS[2], 'last_queued_at', now)
redis.call('HINCRBY', KEYS[2], 'shards_queued', 1)
return token
