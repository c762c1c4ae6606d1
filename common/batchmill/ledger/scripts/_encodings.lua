-- What values of the ledger look like as text, with the only writer and the only parser of each.
-- `encodings.py` has those that Python needs too, in the same order; a test reads with one what the other wrote.

-- What the text of an argument or field says; nil for none.
local function given(text)
  if text ~= '' then return text end
end

-- A key that may be left out. What is sent in its place has the prefix of all keys: servers check that.
local function given_key(key)
  if string.sub(key, -7) ~= ':absent' then return key end
end

-- An attempt: "job|stage|shard|token".
local function attempt_key(job_id, stage, shard_id, token)
  return table.concat({job_id, stage, shard_id, token}, '|')
end

local function parse_attempt(key)
  local job_id, stage, shard_id, token = string.match(key, '^([^|]*)|(%d+)|([%d.]+)|(%d+)$')
  return {key = key, job_id = job_id, stage = stage, shard_id = shard_id, token = token}
end

-- A stage of a job, as a member of an index: "job|stage".
local function stage_key(job_id, stage)
  return job_id .. '|' .. stage
end

-- The cursor of a stage that is not the first: "shard row": the first shard of the stage before it that has rows which are
-- not planned, and how many of its rows are. "" is the beginning.
local function shard_of_cursor(cursor)
  return string.match(cursor or '', '^%d+') or '0'
end

-- Of a stage that keeps state there follow numbers and a name that only the planner reads, the first of them 1 while shards
-- without rows are needed: see `StepCursor`.
local function is_ticking(cursor)
  return string.match(cursor or '', '^%d+ %d+ 1 ') ~= nil
end

-- Who holds an attempt: "worker claim", with a name of its own for each claim.
local function worker_of(holder)
  return string.match(holder, '^(%S+) ')
end

-- The plan of a shard is JSON, which begins with the index of its first row: "[first-row, …".
local function first_row_of(plan)
  return string.match(plan, '^%[(%d+)')
end

-- The plan of a shard that has all results of a part of the stage before it, in Python's form of JSON.
local function plan_of_part(first_row, rows, shard_id, token)
  local slice = string.format('[0, 0, %d, %d, 0, "", 0, "%s-a%s"]', rows, rows, shard_id, token)
  return string.format('[%d, %d, 0, [%s]]', first_row, rows, slice)
end

-- A settled shard: "token rows dead bytes first-row", then " results" if they are not one of each row ("-" if they are
-- and a plan follows), then " plan" if rows of the shard were left. A shard that its halves replaced: "split 2".
local function write_settled(shard)
  local entry = table.concat({shard.token, shard.rows, shard.rows_dead, shard.nbytes, shard.first_row}, ' ')
  if shard.results or shard.plan then entry = entry .. ' ' .. (shard.results or '-') end
  return shard.plan and entry .. ' ' .. shard.plan or entry
end

local function write_split_up(parts)
  return 'split ' .. parts
end

local function parse_settled(entry)
  local token, rows, dead = string.match(entry, '^(%d+) (%d+) (%d+) ')
  return token and {token = token, rows = tonumber(rows), rows_dead = tonumber(dead)}
end

-- What a process that holds an attempt last reported of it: "price used at sharers": the price of an hour (billionths),
-- the time used (µs), when that was (ms), and how many attempts share the time from then on.
local function write_metered(price, used, at, sharers)
  return table.concat({price, used, at, sharers}, ' ')
end

local function parse_metered(text)
  local price, used, at, sharers = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  return {price = tonumber(price), used = tonumber(used), at = tonumber(at), sharers = tonumber(sharers)}
end

-- What the time of an attempt was spent on (µs): "useful padding retried load idle preempted".
local COST_PARTS = {'useful', 'padding', 'retried', 'load', 'idle', 'preempted'}
local function parse_parts(text)
  local parts = {}
  for us in string.gmatch(text, '%d+') do parts[#parts + 1] = tonumber(us) end
  return parts
end

-- A field of a hash of costs: "NAME WHAT", where WHAT is PART_us, PART_nano, rows or attempts.
local function cost_field(name, what)
  return name .. ' ' .. what
end

-- The last intervals between commits: "ms:rows ms:rows …", at most 16, the latest last.
local MAX_PACES = 16
local function append_pace(paces, length_ms, rows)
  paces = (paces and paces .. ' ' or '') .. length_ms .. ':' .. rows
  local _, spaces = string.gsub(paces, ' ', '')
  return spaces < MAX_PACES and paces or (string.gsub(paces, '^%S+ ', ''))
end

-- What a client's idempotency key names: "job digest", the digest of its request.
local function write_request(job_id, digest)
  return job_id .. ' ' .. digest
end

local function parse_request(text)
  return string.match(text, '^(%S+) (%S+)$')
end

-- The coordinator that leads: "epoch name lease_ms", with the length of the lease that it takes. A version before wrote
-- no length; it is nil then.
local function write_leader(epoch, name, lease_ms)
  return epoch .. ' ' .. name .. ' ' .. lease_ms
end

local function parse_leader(text)
  local epoch, name, lease_ms = string.match(text, '^(%d+) (%S+) (%d+)$')
  if epoch then return epoch, name, tonumber(lease_ms) end
  return string.match(text, '^(%d+) (.*)$')
end

-- An event of the channel: "kind id", of a job or a worker. One that is refused is left out: nobody depends on events, and an
-- error would end the script with only a part of its writes done.
local function publish(channel, kind, id)
  redis.pcall('PUBLISH', channel, kind .. ' ' .. id)
end

-- A job that its last commit ended: "job pool operator rows-done rows-failed".
local function write_ended(job_id, worked_for, rows_done, rows_dead)
  return table.concat({job_id, worked_for, rows_done, rows_dead}, ' ')
end

-- A segment of the row cache: "bytes digests", its size and the digests that the index has of it, 16 bytes each.
local function write_segment(bytes, digests)
  return bytes .. ' ' .. table.concat(digests)
end

local function parse_segment(record)
  local bytes = string.match(record, '^%d+')
  return tonumber(bytes), string.sub(record, #bytes + 2)
end

-- Where the results of a row are in the row cache: the segment (6 bytes) and the place in it (8 bytes, the worker's).
local function write_place(segment, place)
  return segment .. place
end

local function segment_of(place)
  return string.sub(place, 1, 6)
end
