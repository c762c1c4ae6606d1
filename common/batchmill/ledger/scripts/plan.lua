-- Write the next shards of a stage and move its cursor, if the cursor is still where the planner read it.
--
-- @key leader
-- @key job
-- @key index
-- @key stage
-- @key ready
-- @key live_shards
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg stage: int
-- @arg cursor: text  as it was read
-- @arg next_cursor: text
-- @arg at_end: flag  the source's end was reached
-- @arg rows_total: int?  none: not known
-- @arg rows_exact: flag  whether that is exact
-- @arg was_counted: flag  by `begin_planning.lua`
-- @arg channel: channel
-- @each shards: PlannedShard
-- @key shard
-- @arg shard_id: shard_id
-- @arg rows: int
-- @arg nbytes: int
-- @arg plan: text
-- @answers ok | deposed | moved | over
--
-- moved: another planner was here; over: the job is paused, stopping or gone.
--
-- shard  hash: state, token, rows, plan, failures, losses, holder, metered, checkpoint (blob with what earlier attempts have done)
-- ready  list of shard ids; live_shards  set of the same
if not leads(keys.leader, args.epoch) then return answer.deposed end
local state = redis.call('HGET', keys.job, 'state')
local cursor, planned = unpack(redis.call('HMGET', keys.stage, 'cursor', 'planned'))
if not takes_shards(state) then return answer.over end
if cursor ~= args.cursor or planned == '1' then return answer.moved end
if state == 'pending' then begin_job(keys.job, state, now) end
local rows, bytes = 0, 0
for _, shard in ipairs(shards) do
  add_shard(shard.keys.shard, keys.ready, keys.live_shards, shard.shard_id, shard.rows, shard.plan)
  rows, bytes = rows + tonumber(shard.rows), bytes + tonumber(shard.nbytes)
end
if args.was_counted then redis.call('HDEL', keys.job, 'plannings') end
redis.call('HSET', keys.stage, 'cursor', args.next_cursor, 'planned', args.at_end and 1 or 0)
if args.rows_total then
  redis.call('HSET', keys.stage, 'rows_total', args.rows_total, 'rows_exact', args.rows_exact and 1 or 0)
end
local number = tonumber(args.stage)
count_planned(keys.job, number, rows, bytes, #shards)
publish(args.channel, count_settled(keys.job, number) and 'settled' or 'planned', args.job_id)
index_job(keys.index, keys.job, args.job_id, now)
return answer.ok
