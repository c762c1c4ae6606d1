-- Charge a tenant for interactive requests, which belong to no job.
--
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @key charged_calls
-- @arg now: clock
-- @arg tenant: text
-- @arg worked_for: text  pool and operator
-- @arg price: int  of an hour, in billionths of the currency's unit
-- @arg used: parts  what the time was spent on
-- @arg rows: int
-- @param process: text  that has used the time
-- @arg number: int  of the charge: it counts once, however often it is sent
-- @returns cost: int  in billionths of the currency's unit
--
-- charged_calls   string: the number of the last charge of a process; it expires when the process is long gone
local DAY_MS = 24 * 60 * 60 * 1000
if tonumber(args.number) <= tonumber(redis.call('GET', keys.charged_calls) or '0') then return 0 end
redis.call('SET', keys.charged_calls, args.number, 'PX', DAY_MS)
local bill = {price = tonumber(args.price), parts = parse_parts(args.used), rows = tonumber(args.rows)}
local _, total = spend(keys, args.tenant, args.worked_for, bill, now)
return total
