-- What scripts share: time, leadership, and the changes of state of jobs and shards.
-- Time is the server's, so that hosts whose clocks differ agree about leases; a test passes its own.

local function now_ms(given_ms)
  local at = tonumber(given_ms)
  if at and at > 0 then return at end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Whether `epoch` is the reigning leader's; a deposed leader's writes change nothing.
local function leads(leader_key, epoch)
  local leader = redis.call('GET', leader_key)
  return leader and parse_leader(leader) == epoch
end

-- Put a job, or a shard, into another state. Every script that changes a state does it here.
local function move_job(job, before, after)
  if not may_move_job(before, after) then error('a ' .. before .. ' job cannot become ' .. after) end
  redis.call('HSET', job, 'state', after)
end

local function move_shard(shard, before, after)
  if not may_move_shard(before, after) then error('a ' .. before .. ' shard cannot become ' .. after) end
  redis.call('HSET', shard, 'state', after)
end

-- The first shards of a job are planned: it runs from now on.
local function begin_job(job, before, now)
  move_job(job, before, 'running')
  redis.call('HSET', job, 'started_at', now)
end

-- Add a shard to a stage, to be queued.
local function add_shard(shard, ready, live_shards, shard_id, rows, plan)
  redis.call('HSET', shard, 'state', 'planned', 'token', 0, 'rows', rows, 'plan', plan, 'failures', 0, 'losses', 0)
  redis.call('RPUSH', ready, shard_id)
  redis.call('SADD', live_shards, shard_id)
end

-- Give a shard that waits its next token and count it as queued; its message is published by who asked for it.
-- keys: `stage`, `shard`, `ready`, `queued`, and `waiting` where it may wait for a retry.
local function queue_shard(keys, state, job_id, stage, shard_id, now)
  if state == 'planned' then
    redis.call('LREM', keys.ready, 1, shard_id)
  else
    redis.call('ZREM', keys.waiting, shard_id)
  end
  local token = redis.call('HINCRBY', keys.shard, 'token', 1)
  move_shard(keys.shard, state, 'queued')
  redis.call('ZADD', keys.queued, now, attempt_key(job_id, stage, shard_id, token))
  redis.call('HSET', keys.stage, 'last_queued_at', now)
  redis.call('HINCRBY', keys.stage, 'shards_queued', 1)
  return token
end

-- The keys of a stage by its number, for a script that handles several stages of a job.
local function stage_keys(job, number)
  local function key(kind) return table.concat({job, kind, number}, ':') end
  return {stage = key('stage'), done = key('done'), ready = key('ready'), waiting = key('waiting'),
          live_shards = key('live'), inline_results = key('inline'), borders = key('borders')}
end

-- The key of a live shard of such a stage.
local function shard_key(job, number, shard_id)
  return table.concat({job, 'shard', number, shard_id}, ':')
end

-- Whether a stage runs with the one before it, so that it has the same shards; see `commit.lua`.
local function is_joined(job, number)
  return redis.call('HGET', job .. ':stage:' .. number, 'joins') == '1'
end

-- Count shards that were added to a stage. Stages that run with it have shards of the same numbers.
local function count_planned(job, number, rows, bytes, shards)
  local stage = job .. ':stage:' .. number
  redis.call('HINCRBY', stage, 'rows_planned', rows)
  redis.call('HINCRBY', stage, 'bytes_in', bytes)
  redis.call('HINCRBY', stage, 'shards_planned', shards)
  redis.call('HINCRBY', stage, 'shards_live', shards)
  number = number + 1
  while is_joined(job, number) do
    redis.call('HINCRBY', job .. ':stage:' .. number, 'shards_planned', shards)
    number = number + 1
  end
end

-- Whether a shard is in a state, and `token` that of its present attempt.
local function is_attempt(shard, state, token)
  local found, current = unpack(redis.call('HMGET', shard, 'state', 'token'))
  return found == state and current == token
end

-- Keep an entry in a job's log, as field, value, …; the oldest one makes room. Returns how many there ever were.
local function note(job, log, ...)
  redis.call('XADD', log, 'MAXLEN', 200, '*', ...)
  return redis.call('HINCRBY', job, 'noted', 1)
end

-- The job leaves its pause, if it is in one; of a job that had begun, the time is kept, which is no time at work.
local function end_pause(job, now)
  local paused, started = unpack(redis.call('HMGET', job, 'paused_at', 'started_at'))
  if not paused then return end
  redis.call('HDEL', job, 'paused_at')
  if started then redis.call('HINCRBY', job, 'paused_ms', now - tonumber(paused)) end
end

-- Whether every shard that a stage will ever have is settled.
local function is_settled(stage)
  local planned, live = unpack(redis.call('HMGET', stage, 'planned', 'shards_live'))
  return planned == '1' and tonumber(live or '0') == 0
end

-- A stage has moved. Returns whether it is settled now, which the job counts: once a stage is settled, it stays so, and
-- one that runs with it gets no more shards.
local function count_settled(job, number)
  local settled = is_settled(job .. ':stage:' .. number)
  if settled then
    redis.call('HINCRBY', job, 'stages_open', -1)
    if is_joined(job, number + 1) then
      redis.call('HSET', job .. ':stage:' .. (number + 1), 'planned', 1)
      count_settled(job, number + 1)
    end
  end
  return settled
end

-- The job is paused: nothing more of it is planned, queued or claimed, and its running attempts release their leases.
local function pause_job(job, before, now, channel, job_id)
  move_job(job, before, 'paused')
  redis.call('HSET', job, 'paused_at', now)
  publish(channel, 'paused', job_id)
end

-- Pause a job until a user has done what `why` says, unless it is stopping.
local function pause_job_for(job, why, now, channel, job_id)
  local state = redis.call('HGET', job, 'state')
  if state ~= 'paused' and may_move_job(state, 'paused') then
    pause_job(job, state, now, channel, job_id)
    state = 'paused'
  end
  if state == 'paused' then redis.call('HSET', job, 'paused_for', why) end
end

-- An attempt ended without results: its lease goes, and the shard waits until `due`.
-- `blame` is the field that counts why: 'failures', 'losses', or nil when nobody is to blame.
local function requeue(keys, leases, attempt, due, blame)
  redis.call('ZREM', leases, attempt.key)
  move_shard(keys.shard, 'running', 'waiting')
  redis.call('HDEL', keys.shard, 'holder', 'metered')
  if blame then redis.call('HINCRBY', keys.shard, blame, 1) end
  redis.call('ZADD', keys.waiting, due, attempt.shard_id)
  redis.call('HINCRBY', keys.stage, 'shards_running', -1)
end

-- A queued attempt is taken back before it was claimed: its shard waits. False when it is not queued any more.
local function unqueue(shard, waiting, queued, attempt, now)
  if not is_attempt(shard, 'queued', attempt.token) then return false end
  move_shard(shard, 'queued', 'waiting')
  redis.call('ZREM', queued, attempt.key)
  redis.call('ZADD', waiting, now, attempt.shard_id)
  return true
end

-- The job stops, as 'cancelling', 'failing' or 'expiring'; of several reasons the first one counts.
-- failure: the error (JSON) of a job that is failing.
local function stop_job(job, now, after, failure)
  local before = redis.call('HGET', job, 'state')
  if not before or not may_move_job(before, after) then return false end
  end_pause(job, now)
  move_job(job, before, after)
  redis.call('HSET', job, 'stopping_at', now)
  if failure then redis.call('HSET', job, 'error', failure) end
  return true
end

-- Something happened to a job that its webhooks report; once, however often it is written.
local function announce(keys, what, job_id, now)
  redis.call('ZADD', keys.announcements, 'NX', now, what .. ' ' .. job_id)
end

-- The job has ended; nothing of it is at work any more. keys: `job`, `live_jobs`, `ended_jobs`, `clock_seen`,
-- `inline_input`, `announcements`.
local function end_job(keys, before, after, job_id, now)
  end_pause(keys.job, now)
  move_job(keys.job, before, after)
  redis.call('HSET', keys.job, 'finished_at', now)
  redis.call('ZREM', keys.live_jobs, job_id)
  redis.call('ZREM', redis.call('HGET', keys.job, 'live_in'), job_id)
  local trusted = redis.call('GET', keys.clock_seen) or '0'
  local created = redis.call('HGET', keys.job, 'created_at') or '0'
  redis.call('ZADD', keys.ended_jobs, math.max(now, tonumber(trusted), tonumber(created)), job_id)
  redis.call('DEL', keys.inline_input)
  if redis.call('HEXISTS', keys.job, 'announces') == 1 then announce(keys, after, job_id, now) end
end

-- The same of one of its stages. keys: `stage`, `ready`, `waiting`, `live_shards`.
local function end_stage(keys)
  redis.call('HSET', keys.stage, 'shards_queued', 0)
  redis.call('HDEL', keys.stage, 'cursor')
  redis.call('DEL', keys.ready, keys.waiting, keys.live_shards)
end
