-- A worker ends its attempt before the shard is done: the shard waits for another attempt, or the job stops.
--
-- KEYS  1 job  2 shard  3 leases  4 waiting  5 cost_tenants  6 cost_pools  7 cost_days
-- ARGV  1 now  2 token  3 member  4 "stage shard"  5 delay until the next attempt (ms)
--       6 'failures' or '' (nobody is to blame)  7 error that stops the job (JSON; '' : it goes on)  8 channel  9 job id
--       10 blob with what is done of the shard ('' : as before)
--       11–15 what the attempt's time went into (µs): useful, padding, retried, load, idle
-- Returns 'ok' | 'stale'
local state, token = unpack(redis.call('HMGET', KEYS[2], 'state', 'token'))
if state ~= 'running' or token ~= ARGV[2] then return 'stale' end
local now = now_ms(ARGV[1])
local bill = {stage = string.match(ARGV[4], '^%d+'), price = price_of(KEYS[2]), parts = {unpack(ARGV, 11, 15)}, rows = 0}
charge(KEYS[1], bill, {KEYS[5], KEYS[6], KEYS[7]}, now, ARGV[8], ARGV[9])
put_back(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[3], ARGV[4], now + tonumber(ARGV[5]), ARGV[6])
if ARGV[10] ~= '' then redis.call('HSET', KEYS[2], 'kept', ARGV[10]) end
if ARGV[7] ~= '' then fail_job(KEYS[1], now, ARGV[7]) end
redis.call('PUBLISH', ARGV[8], 'failed ' .. ARGV[9])
return 'ok'
