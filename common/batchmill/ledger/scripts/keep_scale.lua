-- Keep how many workers each pool needs, in place of what was kept before. It expires: without a leader nobody knows.
--
-- @key leader
-- @key scale
-- @key scale_memory
-- @arg now: clock
-- @arg epoch: int
-- @arg ttl_ms: int
-- @each pools: ScaledPool
-- @arg pool: text
-- @arg decision: text  JSON; empty: nothing is kept of a pool without work and workers
-- @arg memory: text  JSON
-- @answers ok | deposed
--
-- scale  hash: pool to JSON, and "" to when that was decided (ms); scale_memory  hash: pool to JSON
if not leads(keys.leader, args.epoch) then return answer.deposed end
redis.call('DEL', keys.scale, keys.scale_memory)
redis.call('HSET', keys.scale, '', now)
for _, one in ipairs(pools) do
  if one.decision ~= '' then redis.call('HSET', keys.scale, one.pool, one.decision) end
  redis.call('HSET', keys.scale_memory, one.pool, one.memory)
end
redis.call('PEXPIRE', keys.scale, args.ttl_ms)
return answer.ok
