-- Let a paused job go on, where it stood. Resuming twice is one resumption.
-- Its pace is measured on from its next commit, and the time it stood still does not count as waiting for its turn.
--
-- KEYS  1 job  2 log
-- ARGV  1 now  2 channel  3 job id
-- Returns the job's state afterwards ('pending', 'running', or one that cannot be resumed), or '' when there is no such job
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if state ~= 'paused' then return state end
local now = now_ms(ARGV[1])
state = redis.call('HEXISTS', KEYS[1], 'started_at') == 1 and 'running' or 'pending'
end_pause(KEYS[1], now)
redis.call('HSET', KEYS[1], 'state', state, 'last_queued_at', now)
redis.call('HDEL', KEYS[1], 'rate_at', 'rate_rows')
note(KEYS[1], KEYS[2], 'level', 'info', 'event', 'resumed', 'message', 'it goes on where it stood')
redis.call('PUBLISH', ARGV[2], 'resumed ' .. ARGV[3])
return state
