-- Accept a job, or find the one that was accepted under the same idempotency key. Asking again with the same job id is
-- one acceptance.
--
-- KEYS  1 job  2 jobs  3 live_jobs  4 idempotency (or the job key again, when there is no key)
--       5 inline_input  6 uploads
-- ARGV  1 now (0: the server's)  2 job id  3 spec (JSON)  4 digest of the request  5 idempotency key's life (ms; 0: none)
--       6 inline rows ('' : none)  7 rows known (or '')  8 channel  9 upload id ('' : none)  10 most live jobs
--       11 idempotency key ('' : none)  12 the job whose dead letters this one replays ('' : none)
--       13 the job whose output this one goes on with ('' : none)  14 version of the operator
--       15 tenant  16 "pool operator"  17 budget (billionths of the currency's unit; '' : none)
-- Returns {'accepted' | 'known' | 'conflict' | 'full' | 'no upload', job id}
--
-- job          hash: spec, state, created_at, started_at, paused_at, stopping_at, finished_at (ms), error (JSON),
--              paused_ms (in all pauses that are over, since it started), idempotency_key, replay_of, resumed_from, operator_version,
--              adopts (1: what `resumed_from` left is still to be taken over),
--              cursor, planned (1: the source's end was reached), rows_total, rows_exact, rows_planned, rows_done,
--              rows_dead, shards_planned, shards_live, shards_queued, shards_running, shards_done,
--              busy_us, rows_timed, bytes_in, inline_bytes, paces, rate_at, rate_rows, noted, last_queued_at (or when it was resumed),
--              tenant, worked_for ("pool operator"), budget_nano, cost_nano, and for each stage what it cost, in fields as
--              those of cost_tenants, "cost STAGE …"
-- idempotency  string with a life: "job-id digest"
if redis.call('EXISTS', KEYS[1]) == 1 then return {'accepted', ARGV[2]} end  -- asked again: the answer was lost
local now = now_ms(ARGV[1])
if ARGV[5] ~= '0' then
  local known = redis.call('GET', KEYS[4])
  if known then
    local id, digest = string.match(known, '^(%S+) (%S+)$')
    return {digest == ARGV[4] and 'known' or 'conflict', id}
  end
end
if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[10]) then return {'full', ''} end
if ARGV[9] ~= '' and redis.call('ZREM', KEYS[6], ARGV[9]) == 0 then return {'no upload', ''} end
redis.call('HSET', KEYS[1], 'spec', ARGV[3], 'state', 'pending', 'created_at', now, 'cursor', '', 'planned', 0,
           'operator_version', ARGV[14], 'tenant', ARGV[15], 'worked_for', ARGV[16])
if ARGV[17] ~= '' then redis.call('HSET', KEYS[1], 'budget_nano', ARGV[17]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'rows_total', ARGV[7], 'rows_exact', 1) end
if ARGV[6] ~= '' then redis.call('SET', KEYS[5], ARGV[6]) end
if ARGV[12] ~= '' then redis.call('HSET', KEYS[1], 'replay_of', ARGV[12]) end
if ARGV[13] ~= '' then redis.call('HSET', KEYS[1], 'resumed_from', ARGV[13], 'adopts', 1) end
redis.call('ZADD', KEYS[2], now, ARGV[2])
redis.call('SADD', KEYS[3], ARGV[2])
if ARGV[5] ~= '0' then
  redis.call('SET', KEYS[4], ARGV[2] .. ' ' .. ARGV[4], 'PX', ARGV[5])
  redis.call('HSET', KEYS[1], 'idempotency_key', ARGV[11])
end
redis.call('PUBLISH', ARGV[8], 'submitted ' .. ARGV[2])
return {'accepted', ARGV[2]}
