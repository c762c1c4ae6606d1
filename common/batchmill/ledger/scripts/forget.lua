-- Remove what the ledger has of a job that was marked for deletion. Its blobs are gone by now; forgetting twice is fine.
--
-- @key job
-- @key jobs
-- @key ended_jobs
-- @key between_stages
-- @key idempotency?
-- @arg job_id: text
-- @arg channel: channel
-- @each others
-- @key own: given
-- @answers ok | not marked
local marked = redis.call('ZSCORE', keys.ended_jobs, args.job_id)
if redis.call('EXISTS', keys.job) == 1 and tonumber(marked or '1') > 0 then return answer.not_marked end
if keys.idempotency then
  local known = redis.call('GET', keys.idempotency)
  if known and parse_request(known) == args.job_id then redis.call('DEL', keys.idempotency) end
end
redis.call('DEL', keys.job)
for _, other in ipairs(others) do redis.call('DEL', other.keys.own) end
redis.call('ZREM', keys.jobs, args.job_id)
redis.call('ZREM', keys.ended_jobs, args.job_id)
redis.call('ZREM', keys.between_stages, args.job_id)
publish(args.channel, 'deleted', args.job_id)
return answer.ok
