-- Keep a document of a tenant, unless the tenant has too many or too much. To add one again changes nothing.
--
-- @key document
-- @key tenant_documents
-- @key due_documents
-- @key document_bytes
-- @arg now: clock
-- @arg kind: text
-- @arg document_id: text
-- @arg tenant: text
-- @arg body: text  JSON
-- @arg nbytes: int  of what it describes in the blob store
-- @arg due_ms: int?  when the leader has something to do about it
-- @arg max_count: int  of the tenant's documents of this kind
-- @arg max_bytes: int  of them together
-- @arg channel: channel
-- @answers added | too many | too large
--
-- document          hash: tenant, body, nbytes, created (ms), revision: how often it was changed
-- tenant_documents  sorted set: document id scored by when it was added (ms)
-- due_documents     sorted set: document id scored by when it is due (ms)
-- document_bytes    hash: tenant to the bytes of its documents
if redis.call('EXISTS', keys.document) == 1 then return answer.added end
if redis.call('ZCARD', keys.tenant_documents) >= tonumber(args.max_count) then return answer.too_many end
local held = tonumber(redis.call('HGET', keys.document_bytes, args.tenant) or '0')
if held + tonumber(args.nbytes) > tonumber(args.max_bytes) then return answer.too_large end
redis.call('HSET', keys.document, 'tenant', args.tenant, 'body', args.body, 'nbytes', args.nbytes, 'created', now,
           'revision', 0)
redis.call('ZADD', keys.tenant_documents, now, args.document_id)
if args.due_ms then redis.call('ZADD', keys.due_documents, args.due_ms, args.document_id) end
redis.call('HINCRBY', keys.document_bytes, args.tenant, args.nbytes)
publish(args.channel, args.kind, args.document_id)
return answer.added
