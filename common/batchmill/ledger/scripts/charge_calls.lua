-- Charge a tenant for interactive requests, which belong to no job.
--
-- @key cost_tenants
-- @key cost_pools
-- @key cost_days
-- @arg now: clock
-- @arg tenant: text
-- @arg worked_for: text  pool and operator
-- @arg price: int  of an hour, in billionths of the currency's unit
-- @arg used: parts  what the time was spent on
-- @arg rows: int
-- @returns cost: int  in billionths of the currency's unit
local bill = {price = tonumber(args.price), parts = parse_parts(args.used), rows = tonumber(args.rows)}
local _, total = spend(keys, args.tenant, args.worked_for, bill, now)
return total
