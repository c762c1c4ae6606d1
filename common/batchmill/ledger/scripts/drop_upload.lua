-- Forget an upload that no job has taken; the caller then deletes its blobs.
--
-- KEYS  1 uploads
-- ARGV  1 upload id
-- Returns 1 when it was open, else 0
return redis.call('ZREM', KEYS[1], ARGV[1])
