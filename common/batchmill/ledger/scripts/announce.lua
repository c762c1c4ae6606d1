-- Note that a worker is there, what it has loaded, and what its operators are.
--
-- @key workers
-- @key workers_seen
-- @key operators
-- @arg now: clock
-- @arg worker: text
-- @arg description: text  JSON
-- @arg ttl_ms: int  how long this holds
-- @arg channel: channel
-- @arg changed: flag  what it has loaded has changed
-- @each announced: Announced
-- @arg operator: text
-- @arg description: text  JSON
-- @returns gone: text*  the workers whose presence ended before now; they are forgotten
--
-- workers  hash: name to JSON; workers_seen  sorted set: name by when its presence ends (ms); operators  hash: name to JSON
local known = redis.call('HEXISTS', keys.workers, args.worker)
redis.call('HSET', keys.workers, args.worker, args.description)
redis.call('ZADD', keys.workers_seen, now + tonumber(args.ttl_ms), args.worker)
for _, one in ipairs(announced) do redis.call('HSET', keys.operators, one.operator, one.description) end
local gone = redis.call('ZRANGEBYSCORE', keys.workers_seen, '-inf', '(' .. now)
for _, name in ipairs(gone) do
  redis.call('HDEL', keys.workers, name)
  redis.call('ZREM', keys.workers_seen, name)
end
if known == 0 or args.changed then publish(args.channel, 'worker', args.worker) end
return gone
