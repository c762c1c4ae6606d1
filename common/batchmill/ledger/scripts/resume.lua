-- Let a paused job go on, where it stood. Resuming twice is one resumption.
-- Its pace is measured on from its next commit, and the time it stood still does not count as waiting for its turn.
--
-- KEYS  1 job  2 log
-- ARGV  1 now  2 channel  3 job id  4 its budget from now on (billionths of the currency's unit; '' : as before)
-- Returns the job's state afterwards ('pending', 'running', or one that cannot be resumed), '' when there is no such job,
--         or 'spent' (the budget, the new one if there is one, is used up already; nothing changed)
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if is_final(state) or is_stopping(state) then return state end
local budget, cost = unpack(redis.call('HMGET', KEYS[1], 'budget_nano', 'cost_nano'))
local is_new = ARGV[4] ~= ''
if is_new then budget = ARGV[4] end
local is_spent = budget and tonumber(cost or '0') >= tonumber(budget)
if is_spent and (is_new or state == 'paused') then return 'spent' end
if is_new then redis.call('HSET', KEYS[1], 'budget_nano', budget) end
if state ~= 'paused' then return state end
local now = now_ms(ARGV[1])
state = redis.call('HEXISTS', KEYS[1], 'started_at') == 1 and 'running' or 'pending'
end_pause(KEYS[1], now)
redis.call('HSET', KEYS[1], 'state', state, 'last_queued_at', now)
redis.call('HDEL', KEYS[1], 'rate_at', 'rate_rows')
note(KEYS[1], KEYS[2], 'level', 'info', 'event', 'resumed', 'message', 'it goes on where it stood')
redis.call('PUBLISH', ARGV[2], 'resumed ' .. ARGV[3])
return state
