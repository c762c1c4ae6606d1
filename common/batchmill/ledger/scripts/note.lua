-- Keep an entry in a job's log, if the job is still there; the oldest one makes room.
--
-- @key job
-- @key job_log
-- @each entry: LogField
-- @arg field: text
-- @arg value: text
-- @returns noted: int  how many entries the job has had so far, or 0 when there is no such job
--
-- job_log  stream, at most 200 entries: level, event, message, and where there is one worker, shard, attempt, traceback;
--      `noted` of the job counts all there ever were
if redis.call('EXISTS', keys.job) == 0 then return 0 end
local fields = {}
for _, one in ipairs(entry) do
  fields[#fields + 1], fields[#fields + 2] = one.field, one.value
end
return note(keys.job, keys.job_log, unpack(fields))
