-- Give a job what an earlier one left in its output folder. That is, of each stage, the shards that are settled, those
-- that are not, and where the planner stopped; it continues from there.
--
-- @key leader
-- @key job
-- @key index
-- @key dead_counts
-- @key incomplete
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg dead_by_type: text  failed rows by error type (JSON object)
-- @arg incomplete: text  source rows with failed rows, before a stage that gathers (JSON list)
-- @arg channel: channel
-- @each stages: ResumedStage
-- @param stage: int
-- @key stage
-- @key done
-- @key borders
-- @arg settled: text  settled shards (JSON object: id to entry)
-- @arg borders: text  where source rows begin in their results (JSON object: id to text)
-- @arg cursor: text
-- @arg at_end: flag  the input's end was reached
-- @arg rows_planned: int
-- @arg shards_planned: int
-- @arg shards_done: int
-- @arg rows_done: int
-- @arg rows_dead: int
-- @arg rows_filtered: int
-- @arg rows_out: int
-- @arg bytes_out: int
-- @arg bytes_freed: int
-- @arg freed: text
-- @each shards: UnfinishedShard
-- @param stage: int
-- @key stage
-- @key shard
-- @key live_shards
-- @key waiting
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
for kind, number in pairs(cjson.decode(args.dead_by_type)) do redis.call('HSET', keys.dead_counts, kind, number) end
for _, row in ipairs(cjson.decode(args.incomplete)) do redis.call('SADD', keys.incomplete, string.format('%.0f', row)) end
for _, one in ipairs(stages) do
  for id, entry in pairs(cjson.decode(one.settled)) do redis.call('HSET', one.keys.done, id, entry) end
  for id, borders in pairs(cjson.decode(one.borders)) do redis.call('HSET', one.keys.borders, id, borders) end
  local settled = tonumber(one.rows_done) + tonumber(one.rows_dead)
  redis.call('HSET', one.keys.stage, 'cursor', one.cursor, 'planned', one.at_end and 1 or 0,
             'rows_planned', one.rows_planned, 'shards_planned', one.shards_planned, 'shards_live', 0,
             'shards_done', one.shards_done, 'rows_done', one.rows_done, 'rows_dead', one.rows_dead,
             'rows_filtered', one.rows_filtered, 'rows_resumed', settled, 'rate_at', now, 'rate_rows', settled)
  if redis.call('HEXISTS', one.keys.stage, 'buffer_bytes') == 1 then
    redis.call('HSET', one.keys.stage, 'rows_out', one.rows_out, 'bytes_out', one.bytes_out,
               'bytes_freed', one.bytes_freed, 'freed', one.freed)
  end
end
for _, shard in ipairs(shards) do
  redis.call('HSET', shard.keys.shard, 'state', 'waiting', 'token', shard.token, 'rows', shard.rows,
             'plan', shard.plan, 'failures', 0, 'losses', 0)
  redis.call('SADD', shard.keys.live_shards, shard.shard_id)
  redis.call('ZADD', shard.keys.waiting, now, shard.shard_id)
  redis.call('HINCRBY', shard.keys.stage, 'shards_live', 1)
end
if state ~= 'running' then move_job(keys.job, state, 'running') end
redis.call('HDEL', keys.job, 'must_resume')
redis.call('HSET', keys.job, 'started_at', now)
local any_settled = false
for place in ipairs(stages) do
  local number = place - 1
  if not is_joined(keys.job, number) then any_settled = count_settled(keys.job, number) or any_settled end
end
publish(args.channel, any_settled and 'settled' or 'planned', args.job_id)
index_job(keys.index, keys.job, args.job_id, now)
return answer.ok
