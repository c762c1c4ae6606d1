-- Cost: what the time of devices was spent on, in microseconds and in billionths of the currency's unit.
local COST_FIELDS = 14 * 200  -- in a hash of totals; who is not among these is counted under 'other'
local COST_DAYS = 400

local function add_cost(key, name, spent)
  for field, amount in pairs(spent) do
    if amount ~= 0 then redis.call('HINCRBY', key, cost_field(name, field), string.format('%.0f', amount)) end
  end
end

local function cost_name(totals, name)
  local has_room = redis.call('HLEN', totals) < COST_FIELDS
  return (has_room or redis.call('HEXISTS', totals, cost_field(name, 'attempts')) == 1) and name or 'other'
end

-- The day, counted from the epoch. Where a day begins, those of long ago are dropped.
local function cost_day(days, now)
  local today = math.floor(now / 86400000)
  if redis.call('HEXISTS', days, cost_field(today, 'attempts')) == 0 then
    for _, field in ipairs(redis.call('HKEYS', days)) do
      if tonumber(string.match(field, '^%d+')) <= today - COST_DAYS then redis.call('HDEL', days, field) end
    end
  end
  return tostring(today)
end

-- Add what `bill` says to the totals: price (billionths an hour), parts (microseconds in the order of COST_PARTS; what an
-- earlier version does not name is 0), rows.
-- Returns the amounts, and the cost in all. keys: `cost_tenants`, `cost_pools` and `cost_days`.
local function spend(keys, tenant, worked_for, bill, now)
  local spent, total = {rows = bill.rows, attempts = 1}, 0
  for number, part in ipairs(COST_PARTS) do
    local us = bill.parts[number] or 0
    local nano = math.floor(us * bill.price / 3600000000 + 0.5)
    spent[part .. '_us'], spent[part .. '_nano'] = us, nano
    total = total + nano
  end
  add_cost(keys.cost_tenants, cost_name(keys.cost_tenants, tenant), spent)
  add_cost(keys.cost_pools, cost_name(keys.cost_pools, worked_for), spent)
  add_cost(keys.cost_days, cost_day(keys.cost_days, now), spent)
  return spent, total
end

-- Charge a job for an attempt that ends now, as `bill` says. The job is paused when that uses up its budget and it has
-- work left. keys: `job` and `stage`, and those of `spend`.
local function charge(keys, attempt, bill, now, channel)
  local tenant = redis.call('HGET', keys.job, 'tenant')
  local worked_for = redis.call('HGET', keys.stage, 'worked_for')
  local spent, total = spend(keys, tenant or 'default', worked_for or 'other', bill, now)
  add_cost(keys.stage, 'cost', spent)
  local cost = redis.call('HINCRBY', keys.job, 'cost_nano', string.format('%.0f', total))
  local budget, state, stages_open = unpack(redis.call('HMGET', keys.job, 'budget_nano', 'state', 'stages_open'))
  if budget and cost >= tonumber(budget) and state == 'running' and stages_open ~= '0' then
    pause_job(keys.job, state, now, channel, attempt.job_id)
  end
end

-- The price that the process of an attempt has given for it.
local function price_of(shard)
  local metered = redis.call('HGET', shard, 'metered')
  return metered and parse_metered(metered).price or 0
end

-- Charge a job for an attempt that can report nothing any more: what it reported last, and its share of the time since
-- then (`metered`), until `ends` at the latest. All of it was wasted.
local function charge_lost(keys, attempt, ends, now, channel, metered)
  if not metered then return end
  local reported = parse_metered(metered)
  local silent_ms = math.max(0, math.min(now, math.abs(tonumber(ends))) - reported.at)
  local us = reported.used + math.floor(silent_ms * 1000 / reported.sharers)
  charge(keys, attempt, {price = reported.price, parts = {0, 0, us, 0, 0}, rows = 0}, now, channel)
end
