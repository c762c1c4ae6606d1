-- Keep an entry in a job's log, if the job is still there; the oldest one makes room.
--
-- KEYS  1 job  2 log
-- ARGV  1… field, value, …
-- Returns how many entries the job has had so far, or 0 when there is no such job
--
-- log  stream, at most 200 entries: level, event, message, and where there is one worker, shard, attempt, traceback;
--      `noted` of the job counts all there ever were
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return note(KEYS[1], KEYS[2], unpack(ARGV))
