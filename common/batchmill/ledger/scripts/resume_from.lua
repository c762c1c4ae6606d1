-- Give a job what an earlier one left in its output folder. That is the shards that are settled, those that are not,
-- and where the planner stopped; it continues from there.
--
-- @key leader
-- @key job
-- @key index
-- @key stage
-- @key done
-- @key live_shards
-- @key waiting
-- @key dead_counts
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg stage: int
-- @arg settled: text  settled shards (JSON object: id to entry)
-- @arg dead_by_type: text  failed rows by error type (JSON object)
-- @arg cursor: text
-- @arg at_end: flag  the source's end was reached
-- @arg rows_planned: int
-- @arg shards_planned: int
-- @arg channel: channel
-- @each shards: UnfinishedShard
-- @key shard
-- @arg shard_id: shard_id
-- @arg token: int
-- @arg rows: int
-- @arg plan: text
-- @answers ok | deposed
-- @answers moved | over
--
-- moved: it was done already; over: the job is paused, stopping or gone.
if not leads(keys.leader, args.epoch) then return answer.deposed end
local state, must_resume = unpack(redis.call('HMGET', keys.job, 'state', 'must_resume'))
if must_resume ~= '1' then return answer.moved end
if not takes_shards(state) then return answer.over end
local rows, dead, count = 0, 0, 0
for id, entry in pairs(cjson.decode(args.settled)) do
  redis.call('HSET', keys.done, id, entry)
  local part = parse_settled(entry)
  if part then rows, dead, count = rows + part.rows, dead + part.rows_dead, count + 1 end
end
for kind, number in pairs(cjson.decode(args.dead_by_type)) do redis.call('HSET', keys.dead_counts, kind, number) end
for _, shard in ipairs(shards) do
  redis.call('HSET', shard.keys.shard, 'state', 'waiting', 'token', shard.token, 'rows', shard.rows,
             'plan', shard.plan, 'failures', 0, 'losses', 0)
  redis.call('SADD', keys.live_shards, shard.shard_id)
  redis.call('ZADD', keys.waiting, now, shard.shard_id)
end
if state ~= 'running' then move_job(keys.job, state, 'running') end
redis.call('HDEL', keys.job, 'must_resume')
redis.call('HSET', keys.job, 'started_at', now)
redis.call('HSET', keys.stage, 'cursor', args.cursor, 'planned', args.at_end and 1 or 0,
           'rows_planned', args.rows_planned, 'shards_planned', args.shards_planned, 'shards_live', #shards,
           'shards_done', count, 'rows_done', rows, 'rows_dead', dead, 'rows_resumed', rows + dead,
           'rate_at', now, 'rate_rows', rows + dead)
publish(args.channel, count_settled(keys.job, tonumber(args.stage)) and 'settled' or 'planned', args.job_id)
index_job(keys.index, keys.job, args.job_id, now)
return answer.ok
