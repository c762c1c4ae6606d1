-- A supervisor reports that a worker process is dead. The lease of the attempt to blame ends now, for the recoverer to
-- judge; the other attempts of that process go back at once, and nobody is blamed. If no attempt is named, all end.
--
-- KEYS  1 leases  2 cost_tenants  3 cost_pools  4 cost_days
--       then for each attempt: its job, its shard, its job's waiting
-- ARGV  1 now  2 worker  3 the member to blame ('' : not known)  4 channel
--       then for each attempt: member, "stage shard", job id
-- Returns the members of the attempts that the process held
local now, held = now_ms(ARGV[1]), {}
local costs = {KEYS[2], KEYS[3], KEYS[4]}
for number = 0, (#KEYS - 4) / 3 - 1 do
  local job, shard, waiting = KEYS[5 + 3 * number], KEYS[6 + 3 * number], KEYS[7 + 3 * number]
  local member, name, job_id = ARGV[5 + 3 * number], ARGV[6 + 3 * number], ARGV[7 + 3 * number]
  local state, token, holder = unpack(redis.call('HMGET', shard, 'state', 'token', 'holder'))
  local theirs = holder and string.match(holder, '^(%S+) ') == ARGV[2] and string.match(member, '|(%d+)$') == token
  local ends = redis.call('ZSCORE', KEYS[1], member)
  if theirs and state == 'running' and ends then
    if ARGV[3] == '' or ARGV[3] == member then
      redis.call('ZADD', KEYS[1], -now, member)
    else
      charge_lost(job, shard, name, ends, costs, now, ARGV[4], job_id)
      put_back(job, shard, KEYS[1], waiting, member, name, now, '')
      redis.call('PUBLISH', ARGV[4], 'lost ' .. job_id)
    end
    held[#held + 1] = member
  end
end
return held
