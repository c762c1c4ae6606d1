-- Write the next shards of a job and move its cursor on, if the cursor still stands where the planner read it.
--
-- KEYS  1 leader  2 job  3 ready  4 live_shards  5… one shard key a new shard
-- ARGV  1 now  2 epoch  3 stage  4 expected cursor  5 next cursor  6 '1': the source's end was reached
--       7 rows_total ('' : unknown)  8 '1': it is exact  9 channel  10 job id
--       then for each shard: id, rows, bytes, plan (JSON)
-- Returns 'ok' | 'deposed' | 'moved' (another planner was here) | 'over' (the job is paused, stopping or gone)
--
-- shard  hash: state, token, rows, plan, failures, losses, holder, kept (blob with what earlier attempts have done)
-- ready  list of "stage shard"; live_shards  set of the same
if not leads(KEYS[1], ARGV[2]) then return 'deposed' end
local state = redis.call('HGET', KEYS[2], 'state')
if state ~= 'pending' and state ~= 'running' then return 'over' end
if redis.call('HGET', KEYS[2], 'cursor') ~= ARGV[4] then return 'moved' end
if redis.call('HGET', KEYS[2], 'planned') == '1' then return 'moved' end
if state == 'pending' then redis.call('HSET', KEYS[2], 'state', 'running', 'started_at', now_ms(ARGV[1])) end
local rows, bytes, count = 0, 0, 0
for at = 11, #ARGV, 4 do
  local key, name = KEYS[5 + count], ARGV[3] .. ' ' .. ARGV[at]
  redis.call('HSET', key, 'state', 'planned', 'token', 0, 'rows', ARGV[at + 1], 'plan', ARGV[at + 3],
             'failures', 0, 'losses', 0)
  redis.call('RPUSH', KEYS[3], name)
  redis.call('SADD', KEYS[4], name)
  rows, bytes, count = rows + tonumber(ARGV[at + 1]), bytes + tonumber(ARGV[at + 2]), count + 1
end
redis.call('HSET', KEYS[2], 'cursor', ARGV[5], 'planned', ARGV[6])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[2], 'rows_total', ARGV[7], 'rows_exact', ARGV[8]) end
redis.call('HINCRBY', KEYS[2], 'rows_planned', rows)
redis.call('HINCRBY', KEYS[2], 'bytes_in', bytes)
redis.call('HINCRBY', KEYS[2], 'shards_planned', count)
redis.call('HINCRBY', KEYS[2], 'shards_live', count)
redis.call('PUBLISH', ARGV[9], (is_settled(KEYS[2]) and 'settled ' or 'planned ') .. ARGV[10])
return 'ok'
