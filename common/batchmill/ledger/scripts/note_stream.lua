-- Note the lag of the stream that a job reads.
--
-- @key leader
-- @key job
-- @key index
-- @key stage
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @param stage: int  the first one
-- @arg lag: int?  rows that are there and not planned; none: not known
-- @arg away: text?  why the source cannot be asked
-- @arg channel: channel
-- @answers ok | deposed | over
--
-- over: the job is gone, or has ended.
if not leads(keys.leader, args.epoch) then return answer.deposed end
local state, away = unpack(redis.call('HMGET', keys.job, 'state', 'stream_away'))
if not state or is_final(state) then return answer.over end
local lag = redis.call('HGET', keys.stage, 'lag') or nil
if lag == args.lag and (away or nil) == args.away then return answer.ok end
if args.lag then redis.call('HSET', keys.stage, 'lag', args.lag) else redis.call('HDEL', keys.stage, 'lag') end
if args.away then
  redis.call('HSET', keys.job, 'stream_away', args.away)
else
  redis.call('HDEL', keys.job, 'stream_away')
end
index_job(keys.index, keys.job, args.job_id, now)
publish(args.channel, 'measured', args.job_id)
return answer.ok
