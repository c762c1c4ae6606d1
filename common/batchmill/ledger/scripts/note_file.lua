-- Note the number of a file of a watched folder, before it is planned, in the place of files that never were.
--
-- @key job
-- @key stream_files
-- @param job_id: text
-- @arg name: text
-- @arg number: int
-- @each never_planned
-- @arg other: text
-- @answers ok | no job
--
-- stream_files  hash: name of a file to its number, see `watched_folder.py`
if redis.call('EXISTS', keys.job) == 0 then return answer.no_job end
for _, one in ipairs(never_planned) do redis.call('HDEL', keys.stream_files, one.other) end
redis.call('HSET', keys.stream_files, args.name, args.number)
return answer.ok
