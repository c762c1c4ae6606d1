-- Give jobs the index entries that they are due: a retry became due, or a new leader makes sure of them.
--
-- @key index
-- @arg now: clock
-- @each jobs
-- @key job
-- @arg job_id: text
-- @returns reindexed: int
for _, one in ipairs(jobs) do
  redis.call('HDEL', one.keys.job, 'indexed')
  for number = 0, tonumber(redis.call('HGET', one.keys.job, 'stage_count') or '0') - 1 do
    redis.call('HDEL', one.keys.job .. ':stage:' .. number, 'indexed')
  end
  index_job(keys.index, one.keys.job, one.job_id, now)
end
return #jobs
