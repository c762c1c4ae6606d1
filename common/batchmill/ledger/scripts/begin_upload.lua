-- Note an upload, so that it can be swept if no job takes it.
--
-- KEYS  1 uploads
-- ARGV  1 now  2 upload id  3 most uploads at a time
-- Returns 'ok' | 'full'
--
-- uploads  sorted set: upload id scored by when it began (ms)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 'full' end
redis.call('ZADD', KEYS[1], now_ms(ARGV[1]), ARGV[2])
return 'ok'
