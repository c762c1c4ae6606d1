-- The recoverer replaces a shard that was lost too often by its two halves.
--
-- KEYS  1 job  2 shard  3 leases  4 waiting  5 leader  6 done  7 live_shards  8, 9 the halves' shard keys
--       10 cost_tenants  11 cost_pools  12 cost_days
-- ARGV  1 now  2 epoch  3 token  4 member  5 shard id  6 "stage shard"  7 channel  8 job id  9 stage
--       then for each half: id, rows, plan (JSON), losses, kept
-- Returns 'ok' | 'deposed' | 'alive' (the lease was renewed after all) | 'stale' (the attempt is over)
--
-- done  hash: the id of a split shard to "split 2", how many took over
local now = now_ms(ARGV[1])
local refusal = why_not_lost(KEYS[5], ARGV[2], KEYS[2], KEYS[3], ARGV[4], ARGV[3], now)
if refusal then return refusal end
local ends = redis.call('ZSCORE', KEYS[3], ARGV[4]) or now
charge_lost(KEYS[1], KEYS[2], ARGV[6], ends, {KEYS[10], KEYS[11], KEYS[12]}, now, ARGV[7], ARGV[8])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[4])
redis.call('SREM', KEYS[7], ARGV[6])
redis.call('HSET', KEYS[6], ARGV[5], 'split 2')
for half = 0, 1 do
  local at = 10 + 5 * half
  local name = ARGV[9] .. ' ' .. ARGV[at]
  redis.call('HSET', KEYS[8 + half], 'state', 'waiting', 'token', 0, 'rows', ARGV[at + 1], 'plan', ARGV[at + 2],
             'failures', 0, 'losses', ARGV[at + 3], 'kept', ARGV[at + 4])
  redis.call('SADD', KEYS[7], name)
  redis.call('ZADD', KEYS[4], now, name)
end
redis.call('HINCRBY', KEYS[1], 'shards_running', -1)
redis.call('HINCRBY', KEYS[1], 'shards_live', 1)
redis.call('PUBLISH', ARGV[7], 'lost ' .. ARGV[8])
return 'ok'
