-- A worker takes a queued attempt under a lease. Taking it twice by one holder is one claim (a lost reply is asked again).
--
-- KEYS  1 job  2 shard  3 queued  4 leases  5 inline_input
-- ARGV  1 now  2 token  3 member  4 holder (one name a claim)  5 lease (ms)  6 '1': send the spec and the inline rows too
--       7 price (billionths an hour)  8 how many attempts share the process, this one included
-- Returns {'ok', plan, failures, losses, kept, spec, inline rows} | {'stale'} | {'stopped'} (the job takes no more work)
--
-- leases  sorted set: member scored by when the lease ends (ms)
-- shard's metered: "price used at sharers": the price, the time that the attempt told last (µs), when that was (ms), and
--       with how many it shares the time until it tells more
local now = now_ms(ARGV[1])
local state, token, holder = unpack(redis.call('HMGET', KEYS[2], 'state', 'token', 'holder'))
local again = state == 'running' and holder == ARGV[4]
if token ~= ARGV[2] or not (state == 'queued' or again) then return {'stale'} end
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return {'stopped'} end
if not again then
  redis.call('HSET', KEYS[2], 'state', 'running', 'holder', ARGV[4],
             'metered', table.concat({ARGV[7], 0, now, ARGV[8]}, ' '))
  redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('HINCRBY', KEYS[1], 'shards_queued', -1)
  redis.call('HINCRBY', KEYS[1], 'shards_running', 1)
end
redis.call('ZADD', KEYS[4], now + tonumber(ARGV[5]), ARGV[3])
local plan, failures, losses, kept = unpack(redis.call('HMGET', KEYS[2], 'plan', 'failures', 'losses', 'kept'))
local reply = {'ok', plan, failures, losses, kept or '', '', ''}
if ARGV[6] == '1' then
  reply[6] = redis.call('HGET', KEYS[1], 'spec')
  reply[7] = redis.call('GET', KEYS[5]) or ''
end
return reply
