-- Measure the pace of stages anew, from their next commits: the service was away.
-- It may have come back with other workers.
--
-- @key leader
-- @arg epoch: int
-- @each stages: PacedStage
-- @param job_id: text
-- @param stage: int
-- @key stage
-- @answers ok | deposed
if not leads(keys.leader, args.epoch) then return answer.deposed end
for _, one in ipairs(stages) do redis.call('HDEL', one.keys.stage, 'paces', 'rate_at', 'rate_rows') end
return answer.ok
