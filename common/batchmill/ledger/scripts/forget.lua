-- Remove what the ledger has of a job that was marked for deletion; its blobs are gone by now. Forgetting twice is fine.
--
-- KEYS  1 job  2 jobs  3 ended_jobs  4 idempotency (or the job key again, when it has none)  5… the job's other keys
-- ARGV  1 job id  2 channel
-- Returns 'ok' | 'kept' (it is not marked)
local marked = redis.call('ZSCORE', KEYS[3], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 and tonumber(marked or '1') > 0 then return 'kept' end
if KEYS[4] ~= KEYS[1] then
  local known = redis.call('GET', KEYS[4])
  if known and string.match(known, '^(%S+) ') == ARGV[1] then redis.call('DEL', KEYS[4]) end
end
redis.call('DEL', KEYS[1])
for at = 5, #KEYS do redis.call('DEL', KEYS[at]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('PUBLISH', ARGV[2], 'deleted ' .. ARGV[1])
return 'ok'
