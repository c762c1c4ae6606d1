-- Note how far the parts of a stage are freed, because the next stage has settled them.
-- What of them is in the ledger goes, and their bytes are no longer in its buffer. The caller deletes their blobs later.
--
-- @key leader
-- @key job
-- @key index
-- @key stage
-- @key inline_results
-- @key borders
-- @key readers
-- @arg now: clock
-- @arg epoch: int
-- @arg job_id: text
-- @arg before: text  how far, as it was read
-- @arg after: text
-- @arg nbytes: int  of the parts that are freed by this
-- @arg freed_at: int  settled shards of the next stage, as they were read
-- @arg keep: flag  their results stay
-- @arg channel: channel
-- @each parts
-- @arg shard_id: shard_id
-- @answers ok | deposed | moved
--
-- moved: another leader was here, or the job is gone, or another job reads its results.
if not leads(keys.leader, args.epoch) then return answer.deposed end
if (redis.call('HGET', keys.stage, 'freed') or '') ~= args.before or redis.call('EXISTS', keys.job) == 0 then
  return answer.moved
end
if not args.keep and redis.call('EXISTS', keys.readers) == 1 then return answer.moved end
redis.call('HSET', keys.stage, 'freed', args.after, 'freed_at', args.freed_at)
redis.call('HINCRBY', keys.stage, 'bytes_freed', args.nbytes)
for _, part in ipairs(parts) do
  if not args.keep then redis.call('HDEL', keys.borders, part.shard_id) end
  local held = args.keep and 0 or redis.call('HSTRLEN', keys.inline_results, part.shard_id)
  if held > 0 then
    redis.call('HDEL', keys.inline_results, part.shard_id)
    redis.call('HINCRBY', keys.job, 'inline_bytes', -held)
  end
end
index_job(keys.index, keys.job, args.job_id, now)
if tonumber(args.nbytes) > 0 then publish(args.channel, 'freed', args.job_id) end
return answer.ok
