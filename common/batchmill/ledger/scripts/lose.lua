-- The recoverer takes a shard back from an attempt whose lease ran out.
--
-- KEYS  1 job  2 shard  3 leases  4 waiting  5 leader  6 cost_tenants  7 cost_pools  8 cost_days
-- ARGV  1 now  2 token  3 member  4 "stage shard"  5 delay until the next attempt (ms)
--       6 error that stops the job (JSON; '' : it goes on)  7 channel  8 job id  9 epoch
-- Returns 'ok' | 'deposed' | 'alive' (the lease was renewed after all) | 'stale' (the attempt is over; its lease is dropped)
local now = now_ms(ARGV[1])
local refusal = why_not_lost(KEYS[5], ARGV[9], KEYS[2], KEYS[3], ARGV[3], ARGV[2], now)
if refusal then return refusal end
local ends = redis.call('ZSCORE', KEYS[3], ARGV[3]) or now
charge_lost(KEYS[1], KEYS[2], ARGV[4], ends, {KEYS[6], KEYS[7], KEYS[8]}, now, ARGV[7], ARGV[8])
put_back(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[3], ARGV[4], now + tonumber(ARGV[5]), 'losses')
if ARGV[6] ~= '' then fail_job(KEYS[1], now, ARGV[6]) end
redis.call('PUBLISH', ARGV[7], 'lost ' .. ARGV[8])
return 'ok'
