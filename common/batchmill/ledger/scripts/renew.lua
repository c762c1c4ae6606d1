-- Renew every lease a process holds in one call, and note what its attempts have used so far.
--
-- KEYS  1 leases  then for each attempt: its job, its shard
-- ARGV  1 now  2 lease (ms)  then for each attempt: its member, the time it has used (µs)
-- Returns one word an attempt: 'ok' | 'lost' (the lease ran out and was taken away) | 'paused'
--         | 'stopped' (the job is stopping or over)
local now = now_ms(ARGV[1])
local words, sharers = {}, (#KEYS - 1) / 2
for number = 1, sharers do
  local job, shard = KEYS[2 * number], KEYS[2 * number + 1]
  local member, used = ARGV[2 * number + 1], ARGV[2 * number + 2]
  if not redis.call('ZSCORE', KEYS[1], member) then
    words[number] = 'lost'
  else
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), member)
    local state, token = unpack(redis.call('HMGET', shard, 'state', 'token'))
    if state == 'running' and string.match(member, '|(%d+)$') == token then
      redis.call('HSET', shard, 'metered', table.concat({price_of(shard), used, now, sharers}, ' '))
    end
    state = redis.call('HGET', job, 'state')
    words[number] = state == 'running' and 'ok' or state == 'paused' and 'paused' or 'stopped'
  end
end
return words
