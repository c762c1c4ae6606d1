-- Note an upload, so that it can be swept if no job takes it.
--
-- @key uploads
-- @arg now: clock
-- @arg upload_id: text
-- @arg max_uploads: int
-- @answers ok | full
--
-- uploads  sorted set: upload id scored by when it began (ms)
if redis.call('ZCARD', keys.uploads) >= tonumber(args.max_uploads) then return answer.full end
redis.call('ZADD', keys.uploads, now, args.upload_id)
return answer.ok
