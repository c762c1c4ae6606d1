-- Put the results of a replay into the place of a settled shard's, if the shard is still as it was read.
--
-- @key leader
-- @key job
-- @key stage
-- @key done
-- @key inline_results
-- @key dead_counts
-- @arg epoch: int
-- @arg job_id: text
-- @arg shard_id: shard_id
-- @arg before: text  its entry as read
-- @arg after: text  its entry from now on
-- @arg more_rows: int  more rows done
-- @arg fewer_dead: int  fewer failed rows
-- @arg channel: channel
-- @each dead_by_type: DeadRowsChange
-- @arg error_type: text
-- @arg more_rows: int  more failed rows of that type, below 0: fewer
-- @answers ok | deposed | stale
--
-- stale: the entry is another one by now, or the job is gone.
if not leads(keys.leader, args.epoch) then return answer.deposed end
if redis.call('HGET', keys.done, args.shard_id) ~= args.before then return answer.stale end
redis.call('HSET', keys.done, args.shard_id, args.after)
redis.call('HINCRBY', keys.stage, 'rows_done', args.more_rows)
redis.call('HINCRBY', keys.stage, 'rows_dead', -tonumber(args.fewer_dead))
local inline = redis.call('HSTRLEN', keys.inline_results, args.shard_id)
if inline > 0 then
  redis.call('HDEL', keys.inline_results, args.shard_id)
  redis.call('HINCRBY', keys.job, 'inline_bytes', -inline)
end
for _, counted in ipairs(dead_by_type) do
  local kind = counted.error_type
  if redis.call('HEXISTS', keys.dead_counts, kind) == 0 and redis.call('HEXISTS', keys.dead_counts, 'other') == 1 then
    kind = 'other'
  end
  if redis.call('HINCRBY', keys.dead_counts, kind, counted.more_rows) <= 0 then
    redis.call('HDEL', keys.dead_counts, kind)
  end
end
publish(args.channel, 'amended', args.job_id)
return answer.ok
