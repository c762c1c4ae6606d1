-- Resume a paused job where it was. Resuming twice is one resumption.
-- The pace of its stages is measured on from its next commit, and the time of its pause does not count as waiting for its turn.
--
-- @key job
-- @key index
-- @key job_log
-- @arg now: clock
-- @arg job_id: text
-- @arg budget_nano: int?  from now on (billionths of the currency's unit); none: as before
-- @arg any_version: flag  bind its stages anew, to the version of whatever worker claims next
-- @arg channel: channel
-- @each stages
-- @param stage: int
-- @key stage
-- @answers ok | no job | refused | spent
-- @returns state: job_state?  the job's afterwards
--
-- spent: the budget, the new one if there is one, is used up already, and nothing changed.
local state = redis.call('HGET', keys.job, 'state')
if not state then return {answer.no_job, ''} end
if is_final(state) or is_stopping(state) then return {answer.refused, state} end
local budget, cost = unpack(redis.call('HMGET', keys.job, 'budget_nano', 'cost_nano'))
budget = args.budget_nano or budget
local is_spent = budget and tonumber(cost or '0') >= tonumber(budget)
if is_spent and (args.budget_nano or state == 'paused') then return {answer.spent, state} end
if args.budget_nano then redis.call('HSET', keys.job, 'budget_nano', budget) end
for _, one in ipairs(args.any_version and stages or {}) do
  redis.call('HDEL', one.keys.stage, 'operator_version', 'revision')
end
if state ~= 'paused' then return {answer.ok, state} end
state = redis.call('HEXISTS', keys.job, 'started_at') == 1 and 'running' or 'pending'
end_pause(keys.job, now)
redis.call('HDEL', keys.job, 'paused_for')
move_job(keys.job, 'paused', state)
local count = tonumber(redis.call('HGET', keys.job, 'stage_count'))
for number, one in ipairs(stages) do
  if number > count then break end
  redis.call('HSET', one.keys.stage, 'last_queued_at', now)
  redis.call('HDEL', one.keys.stage, 'rate_at', 'rate_rows')
end
index_job(keys.index, keys.job, args.job_id, now)
note(keys.job, keys.job_log, 'level', 'info', 'event', 'resumed', 'message', 'it continues where it was paused')
publish(args.channel, 'resumed', args.job_id)
return {answer.ok, state}
