-- Pause a job: nothing more of it is planned, queued or claimed, and its running attempts release their leases.
-- Pausing twice is one pause.
--
-- @key job
-- @key index
-- @key job_log
-- @arg now: clock
-- @arg job_id: text
-- @arg channel: channel
-- @answers ok | no job | refused
-- @returns state: job_state?  the job's
local state = redis.call('HGET', keys.job, 'state')
if not state then return {answer.no_job, ''} end
if state == 'paused' then return {answer.ok, state} end
if not may_move_job(state, 'paused') then return {answer.refused, state} end
pause_job(keys.job, state, now, args.channel, args.job_id)
index_job(keys.index, keys.job, args.job_id, now)
note(keys.job, keys.job_log, 'level', 'info', 'event', 'paused', 'message', 'its workers stop after their current batch')
return {answer.ok, 'paused'}
