-- What every script starts with.
-- Time is the server's, so that hosts whose clocks differ agree about leases; a test passes its own.

local function now_ms(given)
  local at = tonumber(given)
  if at and at > 0 then return at end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Whether `epoch` is the reigning leader's; a deposed leader's writes change nothing.
local function leads(leader_key, epoch)
  local leader = redis.call('GET', leader_key)
  return leader and string.match(leader, '^(%d+) ') == epoch
end

local function is_final(state)
  return state == 'completed' or state == 'cancelled' or state == 'failed' or state == 'expired'
end

local function is_stopping(state)
  return state == 'cancelling' or state == 'failing' or state == 'expiring'
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

-- Whether every shard that the job will ever have is settled.
local function is_settled(job)
  local planned, live = unpack(redis.call('HMGET', job, 'planned', 'shards_live'))
  return planned == '1' and tonumber(live or '0') == 0
end

-- Why the leader may not take a shard from an attempt as lost: 'deposed', 'alive' or 'stale'; nil when it may.
-- A lease that outlived its attempt is dropped.
local function why_not_lost(leader_key, epoch, shard, leases, member, token, now)
  if not leads(leader_key, epoch) then return 'deposed' end
  local ends = redis.call('ZSCORE', leases, member)
  if ends and tonumber(ends) > now then return 'alive' end
  local state, current = unpack(redis.call('HMGET', shard, 'state', 'token'))
  if state == 'running' and current == token then return nil end
  redis.call('ZREM', leases, member)
  return 'stale'
end

-- The job is held: nothing more of it is planned, queued or claimed, and its running attempts are told to let go.
local function pause_job(job, now, channel, job_id)
  redis.call('HSET', job, 'state', 'paused', 'paused_at', now)
  redis.call('PUBLISH', channel, 'paused ' .. job_id)
end

-- An attempt ended without results: its lease goes, and the shard waits until `due`.
-- `blame` is the field that counts why: 'failures', 'losses', or '' when nobody is to blame.
local function put_back(job, shard, leases, waiting, member, name, due, blame)
  redis.call('ZREM', leases, member)
  redis.call('HSET', shard, 'state', 'waiting')
  redis.call('HDEL', shard, 'holder', 'metered')
  if blame ~= '' then redis.call('HINCRBY', shard, blame, 1) end
  redis.call('ZADD', waiting, due, name)
  redis.call('HINCRBY', job, 'shards_running', -1)
end

-- The job stops for an error; the first one counts.
local function fail_job(job, now, failure)
  local state = redis.call('HGET', job, 'state')
  if not state or is_final(state) or is_stopping(state) then return false end
  end_pause(job, now)
  redis.call('HSET', job, 'state', 'failing', 'error', failure, 'stopping_at', now)
  return true
end

-- Of digests of 16 bytes that lie in a text one behind the other, those from a place on, as many as one command takes.
local DIGESTS_AT_ONCE = 1000
local function some_digests(text, first)
  local some = {}
  for at = first, math.min(first + 16 * DIGESTS_AT_ONCE, #text + 1) - 16, 16 do
    some[#some + 1] = string.sub(text, at, at + 15)
  end
  return some
end

-- A segment of the row cache is forgotten: what the index has of it goes, and its blob is due to be deleted.
-- Returns how many rows that were.
local function drop_segment(index, segments, used, loose, totals, segment)
  local record = redis.call('HGET', segments, segment)
  redis.call('ZREM', used, segment)
  if not record then return 0 end
  local bytes = string.match(record, '^%d+')
  local rows = 0
  for first = #bytes + 2, #record, 16 * DIGESTS_AT_ONCE do
    rows = rows + redis.call('HDEL', index, unpack(some_digests(record, first)))
  end
  redis.call('HDEL', segments, segment)
  redis.call('HINCRBY', totals, 'bytes', -tonumber(bytes))
  redis.call('ZADD', loose, 0, segment)
  return rows
end

-- Cost: what the time of devices went into, in whole microseconds and in whole billionths of the currency's unit.
local COST_PARTS = {'useful', 'padding', 'retried', 'load', 'idle'}
local COST_FIELDS = 12 * 200  -- in a hash of totals; who is not among these is counted under 'other'
local COST_DAYS = 400

local function add_cost(key, name, spent)
  for field, amount in pairs(spent) do
    if amount ~= 0 then redis.call('HINCRBY', key, name .. ' ' .. field, string.format('%.0f', amount)) end
  end
end

local function cost_name(totals, name)
  local has_room = redis.call('HLEN', totals) < COST_FIELDS
  return (has_room or redis.call('HEXISTS', totals, name .. ' attempts') == 1) and name or 'other'
end

-- The day, counted from the epoch. Where a day begins, those of long ago are dropped.
local function cost_day(days, now)
  local today = math.floor(now / 86400000)
  if redis.call('HEXISTS', days, today .. ' attempts') == 0 then
    for _, field in ipairs(redis.call('HKEYS', days)) do
      if tonumber(string.match(field, '^%d+')) <= today - COST_DAYS then redis.call('HDEL', days, field) end
    end
  end
  return tostring(today)
end

-- Charge a job for an attempt that ends now, as `bill` says: stage, price (billionths an hour), parts (microseconds in
-- the order of COST_PARTS), rows. The job is held when that uses up its budget and it has work left.
-- costs: the keys cost_tenants, cost_pools, cost_days.
local function charge(job, bill, costs, now, channel, job_id)
  local spent, total = {rows = bill.rows, attempts = 1}, 0
  for number, part in ipairs(COST_PARTS) do
    local us = tonumber(bill.parts[number])
    local nano = math.floor(us * bill.price / 3600000000 + 0.5)
    spent[part .. '_us'], spent[part .. '_nano'] = us, nano
    total = total + nano
  end
  local tenant, worked_for = unpack(redis.call('HMGET', job, 'tenant', 'worked_for'))
  add_cost(job, 'cost ' .. bill.stage, spent)
  add_cost(costs[1], cost_name(costs[1], tenant or 'default'), spent)
  add_cost(costs[2], cost_name(costs[2], worked_for or 'other'), spent)
  add_cost(costs[3], cost_day(costs[3], now), spent)
  local cost = redis.call('HINCRBY', job, 'cost_nano', string.format('%.0f', total))
  local budget, state = unpack(redis.call('HMGET', job, 'budget_nano', 'state'))
  if budget and cost >= tonumber(budget) and state == 'running' and not is_settled(job) then
    pause_job(job, now, channel, job_id)
  end
end

-- What the process that holds an attempt was told to pay for it, from `metered` of the shard.
local function price_of(shard)
  return tonumber(string.match(redis.call('HGET', shard, 'metered') or '0', '^%d+'))
end

-- Charge a job for an attempt that can tell nothing any more: what it told last, and its share of the time since then,
-- until `ends` at the latest. All of it was in vain.
local function charge_lost(job, shard, name, ends, costs, now, channel, job_id)
  local metered = redis.call('HGET', shard, 'metered')
  if not metered then return end
  local price, told, at, sharers = string.match(metered, '^(%d+) (%d+) (%d+) (%d+)$')
  local silent_ms = math.max(0, math.min(now, math.abs(tonumber(ends))) - tonumber(at))
  local us = tonumber(told) + math.floor(silent_ms * 1000 / tonumber(sharers))
  local bill = {stage = string.match(name, '^%d+'), price = tonumber(price), parts = {0, 0, us, 0, 0}, rows = 0}
  charge(job, bill, costs, now, channel, job_id)
end
