-- Ask a job to stop: its workers release their leases at their next batch, then the finisher ends it.
--
-- @key job
-- @key index
-- @arg now: clock
-- @arg job_id: text
-- @arg state: job_state  cancelling, failing or expiring
-- @arg error: text?  JSON, for 'failing'
-- @arg channel: channel
-- @answers ok | no job
-- @returns state: job_state?  the job's afterwards
local state = redis.call('HGET', keys.job, 'state')
if not state then return {answer.no_job, ''} end
if not stop_job(keys.job, now, args.state, args.error) then return {answer.ok, state} end
index_job(keys.index, keys.job, args.job_id, now)
publish(args.channel, 'stopping', args.job_id)
return {answer.ok, args.state}
