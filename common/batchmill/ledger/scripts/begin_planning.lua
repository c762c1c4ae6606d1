-- Count that the planner begins with a job; it clears the count when it is through, or when the job fails.
-- So the count is above 1 only if the process of the planner died meanwhile.
--
-- @key job
-- @arg is_again: flag  the caller's own count was not cleared, because the ledger did not answer: it stays as it is
-- @returns count: int  0: there is no such job
if redis.call('EXISTS', keys.job) == 0 then return 0 end
return redis.call('HINCRBY', keys.job, 'plannings', args.is_again and 0 or 1)
