-- Let a job over a stream end after what is planned: no more of the stream is. Draining twice is draining once.
-- How far it is planned stays, so that another job can begin there.
--
-- @key job
-- @key index
-- @key stage
-- @key job_log
-- @arg now: clock
-- @arg job_id: text
-- @arg stage: int  the first one
-- @arg channel: channel
-- @answers ok | no job | refused
-- @returns state: job_state?  the job's
--
-- refused: it is stopping or has ended.
local state = redis.call('HGET', keys.job, 'state')
if not state then return {answer.no_job, ''} end
if redis.call('HEXISTS', keys.job, 'savepoint') == 1 then return {answer.ok, state} end
if is_stopping(state) or is_final(state) then return {answer.refused, state} end
if state == 'pending' then begin_job(keys.job, state, now) end
local cursor, planned = unpack(redis.call('HMGET', keys.stage, 'cursor', 'rows_planned'))
redis.call('HSET', keys.job, 'savepoint', cursor == '' and '{}' or cursor)
redis.call('HSET', keys.stage, 'planned', 1, 'rows_total', planned or 0, 'rows_exact', 1)
count_settled(keys.job, tonumber(args.stage))
index_job(keys.index, keys.job, args.job_id, now)
note(keys.job, keys.job_log, 'level', 'info', 'event', 'drained', 'message', 'it ends after the rows that are planned')
publish(args.channel, 'settled', args.job_id)
return {answer.ok, redis.call('HGET', keys.job, 'state')}
