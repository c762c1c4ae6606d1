-- Ask a job to stop: its workers let go at their next batch, then the finisher ends it.
--
-- KEYS  1 job
-- ARGV  1 now  2 'cancelling' | 'failing' | 'expiring'  3 error (JSON, for 'failing')  4 channel  5 job id
-- Returns the job's state afterwards, or '' when there is no such job
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if is_final(state) or is_stopping(state) then return state end
local now = now_ms(ARGV[1])
if ARGV[2] == 'failing' then
  fail_job(KEYS[1], now, ARGV[3])
else
  end_pause(KEYS[1], now)
  redis.call('HSET', KEYS[1], 'state', ARGV[2], 'stopping_at', now)
end
redis.call('PUBLISH', ARGV[4], 'stopping ' .. ARGV[5])
return ARGV[2]
