-- Note how far the results of a stage are in the files of the job's output, if that is as it was read.
--
-- @key leader
-- @key job
-- @key stage
-- @param job_id: text
-- @param stage: int  the last one
-- @arg epoch: int
-- @arg before: text  as it was read
-- @arg after: text
-- @answers ok | deposed | moved
--
-- moved: another leader was here, or the job is gone.
if not leads(keys.leader, args.epoch) then return answer.deposed end
if (redis.call('HGET', keys.stage, 'rolled') or '') ~= args.before or redis.call('EXISTS', keys.job) == 0 then
  return answer.moved
end
redis.call('HSET', keys.stage, 'rolled', args.after)
return answer.ok
