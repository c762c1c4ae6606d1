-- End a job whose work is over: nothing of it is planned, queued or running any more.
--
-- KEYS  1 leader  2 job  3 live_jobs  4 ready  5 waiting  6 live_shards  7 queued  8 inline_input
--       9 ended_jobs  10… the shard key of each live shard
-- ARGV  1 now  2 epoch  3 job id  4 final state  5 channel  6… the queued members of the live shards, if any
-- Returns 'ok' | 'deposed' | 'busy' (something is still at work, or another state is due)
--
-- ended_jobs  sorted set: job id scored by when it ended (ms); 0: to be deleted now
if not leads(KEYS[1], ARGV[2]) then return 'deposed' end
local state, planned, live, running = unpack(redis.call('HMGET', KEYS[2], 'state', 'planned', 'shards_live', 'shards_running'))
local due = {running = 'completed', paused = 'completed', cancelling = 'cancelled', failing = 'failed', expiring = 'expired'}
if due[state] ~= ARGV[4] then return 'busy' end
if tonumber(running or '0') > 0 then return 'busy' end
if ARGV[4] == 'completed' and (planned ~= '1' or tonumber(live or '0') > 0) then return 'busy' end
local now = now_ms(ARGV[1])
end_pause(KEYS[2], now)
redis.call('HSET', KEYS[2], 'state', ARGV[4], 'finished_at', now, 'shards_queued', 0)
redis.call('HDEL', KEYS[2], 'cursor')
redis.call('SREM', KEYS[3], ARGV[3])
redis.call('ZADD', KEYS[9], now, ARGV[3])
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6], KEYS[8])
for at = 10, #KEYS do redis.call('DEL', KEYS[at]) end
for at = 6, #ARGV do redis.call('ZREM', KEYS[7], ARGV[at]) end
redis.call('PUBLISH', ARGV[5], 'finished ' .. ARGV[3])
return 'ok'
