-- Make an attempt's results the shard's results: the one step that counts. Committing twice is one commit.
--
-- KEYS  1 job  2 shard  3 leases  4 done  5 live_shards  6 inline_results  7 dead_counts
--       8 cost_tenants  9 cost_pools  10 cost_days
-- ARGV  1 now  2 token  3 member  4 shard id  5 "stage shard"  6 rows  7 dead rows  8 bytes  9 busy (µs)
--       10 inline results ('' : they lie in the sink)  11 most inline bytes a job  12 channel  13 job id
--       14 most dead rows ('' : any number; below 1: that share of the job's rows)  15 error that then stops the job (JSON)
--       16 results ('' : one of each row)  17 of the rows, those not computed
--       18–22 what the attempt's time went into (µs): useful, padding, retried, load, idle
--       23… error type, dead rows of that type, …
-- Returns 'ok' | 'stale' (another attempt has the shard) | 'no room' (write the results to the sink, then come again)
--
-- dead_counts  hash: error type to how many rows died of it, at most 100 types and 'other'
-- done  hash: shard id to "token rows dead bytes first-row"; behind that the results where not one of each row ('-': one
--       of each), and the plan, if rows of the shard were left
-- cost_tenants, cost_pools, cost_days  hash: for each tenant, "pool operator" and day since the epoch, the last 400 of them,
--       "NAME PART_us" (µs), "NAME PART_nano" (billionths of the currency's unit), "NAME rows", "NAME attempts"
-- paces  field of the job: the last 16 intervals between commits, "ms:rows" each, the latest last; each at least
--        a second and a 64th of the run. The open one began at rate_at, when rate_rows rows were settled
local function note_pace(job, now)
  local paces, from, rows, started, done, dead, paused = unpack(redis.call(
    'HMGET', job, 'paces', 'rate_at', 'rate_rows', 'started_at', 'rows_done', 'rows_dead', 'paused_ms'))
  local settled, length = tonumber(done) + tonumber(dead), now - tonumber(from or now)
  if from and length < math.max(1000, (now - tonumber(started) - tonumber(paused or '0')) / 64) then return end
  if from then
    paces = (paces and paces .. ' ' or '') .. length .. ':' .. settled - tonumber(rows)
    local _, spaces = string.gsub(paces, ' ', '')
    if spaces >= 16 then paces = string.gsub(paces, '^%S+ ', '') end
    redis.call('HSET', job, 'paces', paces)
  end
  redis.call('HSET', job, 'rate_at', now, 'rate_rows', settled)
end

local settled = redis.call('HGET', KEYS[4], ARGV[4])
if settled then return string.match(settled, '^(%d+) ') == ARGV[2] and 'ok' or 'stale' end
local state, token, planned_rows, plan = unpack(redis.call('HMGET', KEYS[2], 'state', 'token', 'rows', 'plan'))
if state ~= 'running' or token ~= ARGV[2] then return 'stale' end
local inline = #ARGV[10]
if inline > 0 then
  local held = tonumber(redis.call('HGET', KEYS[1], 'inline_bytes') or '0')
  if held + inline > tonumber(ARGV[11]) then return 'no room' end
  redis.call('HSET', KEYS[6], ARGV[4], ARGV[10])
  redis.call('HINCRBY', KEYS[1], 'inline_bytes', inline)
end
local now = now_ms(ARGV[1])
local entry = table.concat({ARGV[2], ARGV[6], ARGV[7], ARGV[8], string.match(plan, '^%[(%d+)')}, ' ')
local is_short = tonumber(ARGV[6]) + tonumber(ARGV[7]) < tonumber(planned_rows)
if ARGV[16] ~= '' or is_short then entry = entry .. ' ' .. (ARGV[16] ~= '' and ARGV[16] or '-') end
if is_short then entry = entry .. ' ' .. plan end
local price = price_of(KEYS[2])
redis.call('HSET', KEYS[4], ARGV[4], entry)
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[5], ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('HINCRBY', KEYS[1], 'shards_running', -1)
redis.call('HINCRBY', KEYS[1], 'shards_live', -1)
redis.call('HINCRBY', KEYS[1], 'shards_done', 1)
redis.call('HINCRBY', KEYS[1], 'rows_dead', ARGV[7])
redis.call('HINCRBY', KEYS[1], 'busy_us', ARGV[9])
local rows = tonumber(ARGV[6]) + tonumber(ARGV[7])
redis.call('HINCRBY', KEYS[1], 'rows_timed', rows)
redis.call('HINCRBY', KEYS[1], 'rows_done', ARGV[6])
if ARGV[17] ~= '0' then redis.call('HINCRBY', KEYS[1], 'rows_cached', ARGV[17]) end
for at = 23, #ARGV, 2 do
  local kind = ARGV[at]
  if redis.call('HLEN', KEYS[7]) >= 100 and redis.call('HEXISTS', KEYS[7], kind) == 0 then kind = 'other' end
  redis.call('HINCRBY', KEYS[7], kind, ARGV[at + 1])
end
if ARGV[14] ~= '' and tonumber(ARGV[7]) > 0 then
  local most = tonumber(ARGV[14])
  local dead, total, in_plan = unpack(redis.call('HMGET', KEYS[1], 'rows_dead', 'rows_total', 'rows_planned'))
  if most > 0 and most < 1 then most = most * math.max(tonumber(total or '0'), tonumber(in_plan or '0')) end
  if tonumber(dead) > most then fail_job(KEYS[1], now, ARGV[15]) end
end
local bill = {stage = string.match(ARGV[5], '^%d+'), price = price, parts = {unpack(ARGV, 18, 22)}, rows = rows}
charge(KEYS[1], bill, {KEYS[8], KEYS[9], KEYS[10]}, now, ARGV[12], ARGV[13])
note_pace(KEYS[1], now)
redis.call('PUBLISH', ARGV[12], (is_settled(KEYS[1]) and 'settled ' or 'committed ') .. ARGV[13])
return 'ok'
