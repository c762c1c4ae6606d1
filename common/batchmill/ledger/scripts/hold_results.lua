-- Keep the results of a stage of an ended job for another job, which reads them and is about to be submitted.
--
-- @key job
-- @key stage
-- @key ended_jobs
-- @key readers
-- @arg now: clock
-- @arg job_id: text
-- @arg reader: text  the other job
-- @arg freed: text  how far the parts of the stage are freed, as it was read
-- @answers ok | gone | freed
--
-- gone: the job is deleted, or marked for that; freed: results of the stage were freed meanwhile.
--
-- readers  sorted set: job id scored by since when it reads (ms); one that has ended, or was never accepted, is removed
--          when the job is to be deleted
local ended = redis.call('ZSCORE', keys.ended_jobs, args.job_id)
if redis.call('EXISTS', keys.job) == 0 or not ended or tonumber(ended) == 0 then return answer.gone end
if (redis.call('HGET', keys.stage, 'freed') or '') ~= args.freed then return answer.freed end
redis.call('ZADD', keys.readers, now, args.reader)
return answer.ok
