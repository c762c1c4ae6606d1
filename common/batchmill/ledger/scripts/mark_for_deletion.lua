-- Mark an ended job for deletion: whoever deletes its blobs may be cut short, and the janitor continues.
--
-- @key job
-- @key ended_jobs
-- @key readers
-- @arg job_id: text
-- @answers ok | no job | not ended | read
-- @returns state: job_state?  the job's
--
-- not ended: it is no longer among the ended ones; read: other jobs read its results.
local state = redis.call('HGET', keys.job, 'state')
if not state then return {answer.no_job, ''} end
if not is_final(state) then
  redis.call('ZREM', keys.ended_jobs, args.job_id)
  return {answer.not_ended, state}
end
if redis.call('ZCARD', keys.readers) > 0 then return {answer.read, state} end
redis.call('ZADD', keys.ended_jobs, 0, args.job_id)
return {answer.ok, state}
