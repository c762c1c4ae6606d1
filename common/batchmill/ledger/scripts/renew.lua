-- Renew every lease a process holds in one call.
--
-- KEYS  1 leases  2… the job key of each attempt
-- ARGV  1 now  2 lease (ms)  3… the member of each attempt, in the order of the keys
-- Returns one word an attempt: 'ok' | 'lost' (the lease ran out and was taken away) | 'paused'
--         | 'stopped' (the job is stopping or over)
local ends = now_ms(ARGV[1]) + tonumber(ARGV[2])
local words = {}
for at = 3, #ARGV do
  local member = ARGV[at]
  if not redis.call('ZSCORE', KEYS[1], member) then
    words[#words + 1] = 'lost'
  else
    redis.call('ZADD', KEYS[1], ends, member)
    local state = redis.call('HGET', KEYS[at - 1], 'state')
    words[#words + 1] = state == 'running' and 'ok' or state == 'paused' and 'paused' or 'stopped'
  end
end
return words
