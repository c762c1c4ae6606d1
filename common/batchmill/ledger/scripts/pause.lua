-- Hold a job: nothing more of it is planned, queued or claimed, and its running attempts are told to let go.
-- Pausing twice is one pause.
--
-- KEYS  1 job  2 log
-- ARGV  1 now  2 channel  3 job id
-- Returns the job's state afterwards ('paused', or one that cannot be paused), or '' when there is no such job
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if state ~= 'pending' and state ~= 'running' then return state end
pause_job(KEYS[1], now_ms(ARGV[1]), ARGV[2], ARGV[3])
note(KEYS[1], KEYS[2], 'level', 'info', 'event', 'paused', 'message', 'its workers let go')
return 'paused'
