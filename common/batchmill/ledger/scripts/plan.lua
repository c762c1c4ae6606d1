-- Write the next shards of a job and move its cursor, if the cursor is still where the planner read it.
--
-- @key leader
-- @key job
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
-- shard  hash: state, token, rows, plan, failures, losses, holder, metered, kept (blob with what earlier attempts have done)
-- ready  list of "stage shard"; live_shards  set of the same
if not leads(keys.leader, args.epoch) then return answer.deposed end
local state, cursor, planned = unpack(redis.call('HMGET', keys.job, 'state', 'cursor', 'planned'))
if not takes_shards(state) then return answer.over end
if cursor ~= args.cursor or planned == '1' then return answer.moved end
if state == 'pending' then
  move_job(keys.job, state, 'running')
  redis.call('HSET', keys.job, 'started_at', now)
end
local rows, bytes = 0, 0
for _, shard in ipairs(shards) do
  local name = shard_name(args.stage, shard.shard_id)
  redis.call('HSET', shard.keys.shard, 'state', 'planned', 'token', 0, 'rows', shard.rows, 'plan', shard.plan,
             'failures', 0, 'losses', 0)
  redis.call('RPUSH', keys.ready, name)
  redis.call('SADD', keys.live_shards, name)
  rows, bytes = rows + tonumber(shard.rows), bytes + tonumber(shard.nbytes)
end
redis.call('HSET', keys.job, 'cursor', args.next_cursor, 'planned', args.at_end and 1 or 0)
if args.rows_total then
  redis.call('HSET', keys.job, 'rows_total', args.rows_total, 'rows_exact', args.rows_exact and 1 or 0)
end
redis.call('HINCRBY', keys.job, 'rows_planned', rows)
redis.call('HINCRBY', keys.job, 'bytes_in', bytes)
redis.call('HINCRBY', keys.job, 'shards_planned', #shards)
redis.call('HINCRBY', keys.job, 'shards_live', #shards)
publish(args.channel, is_settled(keys.job) and 'settled' or 'planned', args.job_id)
return answer.ok
