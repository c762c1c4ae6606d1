-- Forget a document; the caller then deletes its blobs.
--
-- @key document
-- @key tenant_documents
-- @key due_documents
-- @key document_bytes
-- @param kind: text
-- @arg document_id: text
-- @arg tenant: text
-- @returns was_there: flag
local nbytes = redis.call('HGET', keys.document, 'nbytes')
redis.call('ZREM', keys.due_documents, args.document_id)
redis.call('ZREM', keys.tenant_documents, args.document_id)
if not nbytes then return 0 end
redis.call('DEL', keys.document)
if redis.call('HINCRBY', keys.document_bytes, args.tenant, -tonumber(nbytes)) <= 0 then
  redis.call('HDEL', keys.document_bytes, args.tenant)
end
return 1
