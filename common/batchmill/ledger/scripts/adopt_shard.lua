-- Add to a stage of a job what a replay has settled in it, as a shard of its own; once for each replay.
--
-- @key leader
-- @key stage
-- @key done
-- @key dead_counts
-- @arg epoch: int
-- @arg job_id: text
-- @arg replay_id: text
-- @arg shard_id: shard_id  the number after those that are planned
-- @arg shards_planned: int  as they were read
-- @arg rows: int
-- @arg rows_dead: int
-- @arg entry: text  of the shard
-- @arg channel: channel
-- @each dead_by_type: AdoptedDeadRows
-- @arg error_type: text
-- @arg rows: int
-- @answers ok | deposed | known | moved
--
-- known: it was added before; moved: the stage has more shards than were read.
if not leads(keys.leader, args.epoch) then return answer.deposed end
if redis.call('HEXISTS', keys.stage, 'adopted ' .. args.replay_id) == 1 then return answer.known end
if redis.call('HGET', keys.stage, 'shards_planned') ~= args.shards_planned then return answer.moved end
redis.call('HSET', keys.stage, 'adopted ' .. args.replay_id, 1)
redis.call('HSET', keys.done, args.shard_id, args.entry)
redis.call('HINCRBY', keys.stage, 'shards_planned', 1)
redis.call('HINCRBY', keys.stage, 'shards_done', 1)
redis.call('HINCRBY', keys.stage, 'rows_done', args.rows)
redis.call('HINCRBY', keys.stage, 'rows_dead', args.rows_dead)
for _, field in ipairs({'rows_planned', 'rows_total'}) do
  redis.call('HINCRBY', keys.stage, field, args.rows + args.rows_dead)
end
for _, counted in ipairs(dead_by_type) do
  redis.call('HINCRBY', keys.dead_counts, counted.error_type, counted.rows)
end
publish(args.channel, 'amended', args.job_id)
return answer.ok
