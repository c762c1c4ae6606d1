-- Replace the body of a document that nobody has changed since it was read, and say when it is due next.
--
-- @key document
-- @key due_documents
-- @key leader
-- @arg kind: text
-- @arg document_id: text
-- @arg revision: int  that it had when it was read
-- @arg body: text  JSON
-- @arg due_ms: int
-- @arg epoch: int?  of the leader, for what only the leader does
-- @arg channel: channel
-- @answers ok | deposed | stale
if args.epoch and not leads(keys.leader, args.epoch) then return answer.deposed end
if redis.call('HGET', keys.document, 'revision') ~= args.revision then return answer.stale end
redis.call('HSET', keys.document, 'body', args.body)
redis.call('HINCRBY', keys.document, 'revision', 1)
redis.call('ZADD', keys.due_documents, args.due_ms, args.document_id)
if not args.epoch then publish(args.channel, args.kind, args.document_id) end
return answer.ok
