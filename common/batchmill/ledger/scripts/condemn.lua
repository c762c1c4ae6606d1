-- Mark an ended job for deletion: whoever deletes its blobs may be cut short, and the janitor goes on.
--
-- KEYS  1 job  2 ended_jobs
-- ARGV  1 job id
-- Returns 'ok' | the state of a job that has not ended (it is no longer among the ended ones) | '' (there is no such job)
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if not is_final(state) then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return state
end
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 'ok'
