-- Give a job what an earlier one left in its output folder: the shards that are settled, those that are not, and where
-- the planner stopped. The planner goes on from there.
--
-- KEYS  1 leader  2 job  3 done  4 live_shards  5 waiting  6 dead_counts  7… one shard key a shard that is not settled
-- ARGV  1 now  2 epoch  3 stage  4 settled shards (JSON object: id to entry)  5 dead rows by error type (JSON object)
--       6 cursor  7 '1': the source's end was reached  8 rows_planned  9 shards_planned  10 channel  11 job id
--       then for each shard that is not settled: id, token, rows, plan (JSON)
-- Returns 'ok' | 'deposed' | 'moved' (it was adopted already) | 'over' (the job is paused, stopping or gone)
if not leads(KEYS[1], ARGV[2]) then return 'deposed' end
local state, adopts = unpack(redis.call('HMGET', KEYS[2], 'state', 'adopts'))
if adopts ~= '1' then return 'moved' end
if state ~= 'pending' and state ~= 'running' then return 'over' end
local now = now_ms(ARGV[1])
local rows, dead, shards, live = 0, 0, 0, 0
for id, entry in pairs(cjson.decode(ARGV[4])) do
  redis.call('HSET', KEYS[3], id, entry)
  local done, lost = string.match(entry, '^%d+ (%d+) (%d+) ')
  if done then rows, dead, shards = rows + tonumber(done), dead + tonumber(lost), shards + 1 end
end
for kind, count in pairs(cjson.decode(ARGV[5])) do redis.call('HSET', KEYS[6], kind, count) end
for at = 12, #ARGV, 4 do
  local name = ARGV[3] .. ' ' .. ARGV[at]
  redis.call('HSET', KEYS[7 + live], 'state', 'waiting', 'token', ARGV[at + 1], 'rows', ARGV[at + 2],
             'plan', ARGV[at + 3], 'failures', 0, 'losses', 0)
  redis.call('SADD', KEYS[4], name)
  redis.call('ZADD', KEYS[5], now, name)
  live = live + 1
end
redis.call('HDEL', KEYS[2], 'adopts')
redis.call('HSET', KEYS[2], 'state', 'running', 'started_at', now, 'cursor', ARGV[6], 'planned', ARGV[7],
           'rows_planned', ARGV[8], 'shards_planned', ARGV[9], 'shards_live', live, 'shards_done', shards,
           'rows_done', rows, 'rows_dead', dead)
redis.call('PUBLISH', ARGV[10], (is_settled(KEYS[2]) and 'settled ' or 'planned ') .. ARGV[11])
return 'ok'
