-- Add rows that were sent to a stream. Sending them again under the number of their producer changes nothing.
--
-- @key pushed
-- @key pushed_state
-- @key producers
-- @key producers_used
-- @key push_call
-- @key tenant_streams
-- @key pushed_streams
-- @arg now: clock
-- @arg tenant: text
-- @arg name: text
-- @arg rows: int
-- @arg nbytes: int
-- @arg data: bytes?  the rows, as an Arrow stream
-- @arg blob: text?  else the blob that has them
-- @param call: text  of one request: the connection may run the script again, when an answer is lost
-- @arg producer: text?
-- @arg sequence: int  its number of these rows: more than that of all before
-- @arg max_streams: int  of a tenant
-- @arg max_bytes: int  of rows of a tenant that are not settled
-- @answers ok | known | full | too many
-- @returns offset: text  of the entry, or of the last one
-- @returns held: int  bytes that the tenant's streams hold
--
-- ok: also where this very call has added the rows before.
-- known: the producer has sent this number, or a later one. full: the tenant holds `max_bytes`. too many: it has
-- `max_streams` streams.
--
-- pushed          stream of entries: rows, end (rows ever added up to it), nbytes, and data or blob
-- pushed_state    hash: rows (ever added), nbytes (of those that are there)
-- producers       hash: producer to the last number that it sent; the 10,000 that sent last. producers_used  sorted set: when
-- push_call       string: the offset that a call has added; for longer than it is repeated
-- tenant_streams  hash: stream to the bytes that it holds. pushed_streams  set: "tenant stream"
local MAX_PRODUCERS = 10000
local CALL_MS = 60000
local held = 0
for _, nbytes in ipairs(redis.call('HVALS', keys.tenant_streams)) do held = held + tonumber(nbytes) end
local added = redis.call('GET', keys.push_call)
if added then return {answer.ok, added, held} end
if args.producer then
  local last = redis.call('HGET', keys.producers, args.producer)
  if last and tonumber(args.sequence) <= tonumber(last) then return {answer.known, '', held} end
end
if held + tonumber(args.nbytes) > tonumber(args.max_bytes) then return {answer.full, '', held} end
local is_new = redis.call('HEXISTS', keys.tenant_streams, args.name) == 0
if is_new and redis.call('HLEN', keys.tenant_streams) >= tonumber(args.max_streams) then
  return {answer.too_many, '', held}
end
redis.call('HINCRBY', keys.tenant_streams, args.name, args.nbytes)
redis.call('SADD', keys.pushed_streams, args.tenant .. ' ' .. args.name)
local rows_end = redis.call('HINCRBY', keys.pushed_state, 'rows', args.rows)
redis.call('HINCRBY', keys.pushed_state, 'nbytes', args.nbytes)
local offset = redis.call('XADD', keys.pushed, '*', 'rows', args.rows, 'end', string.format('%.0f', rows_end),
                          'nbytes', args.nbytes, args.data and 'data' or 'blob', args.data or args.blob)
if args.producer then
  redis.call('HSET', keys.producers, args.producer, args.sequence)
  redis.call('ZADD', keys.producers_used, now, args.producer)
  if redis.call('ZCARD', keys.producers_used) > MAX_PRODUCERS then
    redis.call('HDEL', keys.producers, redis.call('ZPOPMIN', keys.producers_used)[1])
  end
end
redis.call('SET', keys.push_call, offset, 'PX', CALL_MS)
return {answer.ok, offset, held + tonumber(args.nbytes)}
