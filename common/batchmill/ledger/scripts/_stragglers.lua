-- Stragglers: attempts that run on while their shard is queued again for another worker, see `speculate.lua`.
--
-- straggler, straggler_holder, straggler_metered  fields of the shard: the token of such an attempt, and what `holder` and
--                                                 `metered` are of its present one
-- queued_in  field of the shard: the key of the queued attempts of its pool
-- stragglers  field of the stage: how many of its shards have one

-- Forget the straggler of a shard, and charge its job for what it has used, all of it wasted. keys: `stage`, `shard`, and
-- those of `charge`.
local function drop_straggler(keys, leases, attempt, now, channel)
  local metered = redis.call('HGET', keys.shard, 'straggler_metered')
  local ends = redis.call('ZSCORE', leases, attempt.key) or now
  redis.call('ZREM', leases, attempt.key)
  redis.call('HDEL', keys.shard, 'straggler', 'straggler_holder', 'straggler_metered', 'queued_in')
  redis.call('HINCRBY', keys.stage, 'stragglers', -1)
  charge_lost(keys, attempt, ends, now, channel, metered)
end

-- Whether an attempt is the straggler of its shard.
local function is_straggler(shard, token)
  return redis.call('HGET', shard, 'straggler') == token
end

-- Another attempt of the same shard.
local function sibling(attempt, token)
  return {job_id = attempt.job_id, stage = attempt.stage, shard_id = attempt.shard_id, token = token,
          key = attempt_key(attempt.job_id, attempt.stage, attempt.shard_id, token)}
end

-- Why the leader may not take a shard from an attempt as lost: 'deposed', 'alive', 'dropped' or 'stale'; nil when it may.
-- A straggler whose lease ran out is dropped, and so is a lease that outlived its attempt.
local function why_not_lost(keys, epoch, attempt, now, channel)
  if not leads(keys.leader, epoch) then return 'deposed' end
  local ends = redis.call('ZSCORE', keys.leases, attempt.key)
  if ends and tonumber(ends) > now then return 'alive' end
  if is_attempt(keys.shard, 'running', attempt.token) then return nil end
  if is_straggler(keys.shard, attempt.token) then
    drop_straggler(keys, keys.leases, attempt, now, channel)
    index_job(keys.index, keys.job, attempt.job_id, now)
    publish(channel, 'lost', attempt.job_id)
    return 'dropped'
  end
  redis.call('ZREM', keys.leases, attempt.key)
  return 'stale'
end
