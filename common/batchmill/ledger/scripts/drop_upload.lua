-- Forget an upload that no job has taken; the caller then deletes its blobs.
--
-- @key uploads
-- @arg upload_id: text
-- @returns was_open: flag
return redis.call('ZREM', keys.uploads, args.upload_id)
