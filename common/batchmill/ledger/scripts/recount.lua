-- Begin to count all work anew: the sums are empty, and what jobs are counted for is no longer valid. The caller then gives
-- every live job its entries (`reindex.lua`); jobs that change meanwhile are counted by that.
--
-- @key index
-- @arg generation: text  one that was never used
-- @answers ok
redis.call('DEL', keys.index .. 'work')
redis.call('HSET', keys.index .. 'work', 'generation', args.generation)
return answer.ok
