-- Let a paused job go on, where it stood. Resuming twice is one resumption.
-- Its rate is measured anew from now on, and the time it stood still does not count as waiting for its turn.
--
-- KEYS  1 job
-- ARGV  1 now  2 channel  3 job id
-- Returns the job's state afterwards ('pending', 'running', or one that cannot be resumed), or '' when there is no such job
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if state ~= 'paused' then return state end
local now = now_ms(ARGV[1])
local started, done = unpack(redis.call('HMGET', KEYS[1], 'started_at', 'rows_done'))
state = started and 'running' or 'pending'
end_pause(KEYS[1], now)
redis.call('HSET', KEYS[1], 'state', state, 'last_queued_at', now)
if started then redis.call('HSET', KEYS[1], 'rate_at', now, 'rate_rows', done or 0) end
redis.call('PUBLISH', ARGV[2], 'resumed ' .. ARGV[3])
return state
