-- End a job whose work is over: nothing of it is planned, queued or running any more.
--
-- @key leader
-- @key job
-- @key live_jobs
-- @key ready
-- @key waiting
-- @key live_shards
-- @key queued
-- @key inline_input
-- @key ended_jobs
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg state: job_state  the final one
-- @arg channel: channel
-- @each live
-- @key shard
-- @arg attempt: attempt  the present one of a shard that is not settled
-- @answers ok | deposed | busy
--
-- busy: something is still at work, or another state is due.
--
-- ended_jobs  sorted set: job id scored by when it ended (ms); 0: to be deleted now
if not leads(keys.leader, args.epoch) then return answer.deposed end
local state, planned, count, running =
  unpack(redis.call('HMGET', keys.job, 'state', 'planned', 'shards_live', 'shards_running'))
if not state or not is_final(args.state) or not may_move_job(state, args.state) then return answer.busy end
if tonumber(running or '0') > 0 then return answer.busy end
if args.state == 'completed' and (planned ~= '1' or tonumber(count or '0') > 0) then return answer.busy end
end_pause(keys.job, now)
move_job(keys.job, state, args.state)
redis.call('HSET', keys.job, 'finished_at', now, 'shards_queued', 0)
redis.call('HDEL', keys.job, 'cursor')
redis.call('SREM', keys.live_jobs, args.job_id)
redis.call('ZADD', keys.ended_jobs, now, args.job_id)
redis.call('DEL', keys.ready, keys.waiting, keys.live_shards, keys.inline_input)
for _, item in ipairs(live) do
  redis.call('DEL', item.keys.shard)
  redis.call('ZREM', keys.queued, item.attempt.key)
end
publish(args.channel, 'finished', args.job_id)
return answer.ok
