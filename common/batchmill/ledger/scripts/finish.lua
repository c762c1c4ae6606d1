-- End a job whose work is over: nothing of it is planned, queued or running any more.
--
-- @key leader
-- @key job
-- @key index
-- @key live_jobs
-- @key inline_input
-- @key ended_jobs
-- @key clock_seen
-- @key between_stages
-- @key announcements
-- @key streams
-- @key drained_jobs
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg state: job_state  the final one
-- @arg channel: channel
-- @each stages
-- @param stage: int
-- @key stage
-- @key ready
-- @key waiting
-- @key live_shards
-- @each live: LiveAttempt
-- @param pool: text
-- @key shard
-- @key queued
-- @arg attempt: attempt  the present one of a shard that is not settled
-- @answers ok | deposed | busy
--
-- busy: something is still at work, or another state is due.
--
-- ended_jobs  sorted set: job id scored by when it ended (ms), not before it began and not before the last time that a
--             leader trusted, so that a clock that was behind makes no job old; 0: to be deleted now
-- announcements  sorted set: "STATE job id" of jobs with webhooks that ended, "dead_rows:N job id" of those with N failed
--             rows, scored by when (ms)
-- drained_jobs  sorted set: completed jobs over streams whose settled rows were not reported to the source, scored by
--               when they ended (ms)
if not leads(keys.leader, args.epoch) then return answer.deposed end
local state = redis.call('HGET', keys.job, 'state')
if not state or not is_final(args.state) or not may_move_job(state, args.state) then return answer.busy end
for _, one in ipairs(stages) do
  local running, stragglers = unpack(redis.call('HMGET', one.keys.stage, 'shards_running', 'stragglers'))
  if tonumber(running or '0') + tonumber(stragglers or '0') > 0 then return answer.busy end
  if args.state == 'completed' and not is_settled(one.keys.stage) then return answer.busy end
end
end_job(keys, state, args.state, args.job_id, now)
if redis.call('ZREM', keys.streams, args.job_id) == 1 and args.state == 'completed' then
  redis.call('ZADD', keys.drained_jobs, now, args.job_id)
end
for _, one in ipairs(stages) do end_stage(one.keys) end
if args.state == 'completed' and #stages > 1 then redis.call('ZADD', keys.between_stages, now, args.job_id) end
for _, item in ipairs(live) do
  redis.call('DEL', item.keys.shard)
  redis.call('ZREM', item.keys.queued, item.attempt.key)
end
index_job(keys.index, keys.job, args.job_id, now)
publish(args.channel, 'finished', args.job_id)
return answer.ok
