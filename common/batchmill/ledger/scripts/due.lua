-- What there is to queue in these pools, as far as their windows have room. Read from the indexes, in one round trip.
--
-- @key index
-- @arg now: clock
-- @arg limit: int  entries of each kind, and stages of a pool
-- @arg max_turns: int  of a pool; of more, a random choice
-- @arg more_of_a_turn: int  stages of a turn beyond those that the window has room for
-- @each pools: DuePool
-- @arg pool: text
-- @arg window: int  how many of its shards may be in flight
-- @arg operators: text  those that its workers can run, with a space before and after each
-- @returns now: int  ms
-- @returns entries: text*  "unqueue|STAGE", "later|STAGE", "flight|POOL|SHARDS|STAGE" or "ready|POOL|TURN|STAGE", where STAGE
--                          is "job|stage"; those of a pool or turn together, in their order,
--                          the turn with the most urgent stage first
--
-- unqueue: of a paused job, with queued shards. later: with a retry that is due by now. flight: with that many shards that are
-- queued or running. ready: with a shard that may be queued now; none where the window is full.
local entries = {now}
local function add(...)
  entries[#entries + 1] = table.concat({...}, '|')
end

for _, member in ipairs(redis.call('SRANDMEMBER', keys.index .. 'unqueue', args.limit)) do add('unqueue', member) end
local later = redis.call('ZRANGEBYSCORE', keys.index .. 'later', '-inf', now, 'LIMIT', 0, args.limit)
for _, member in ipairs(later) do add('later', member) end
for _, one in ipairs(pools) do
  local room, flying = tonumber(one.window), redis.call('ZRANGE', keys.index .. 'flight|' .. one.pool, 0, -1, 'WITHSCORES')
  for at = 1, #flying, 2 do
    add('flight', one.pool, flying[at + 1], flying[at])
    room = room - tonumber(flying[at + 1])
  end
  local turns = keys.index .. 'ready|' .. one.pool
  if room > 0 then
    local most = math.min(tonumber(args.limit), room + tonumber(args.more_of_a_turn))
    local found = {}
    for _, turn in ipairs(redis.call('SRANDMEMBER', turns, args.max_turns)) do
      if string.find(one.operators, ' ' .. string.match(turn, '^%S+') .. ' ', 1, true) then
        local members = redis.call('ZRANGE', turns .. '|' .. turn, 0, most - 1, 'WITHSCORES')
        if members[1] then found[#found + 1] = {turn = turn, score = tonumber(members[2]), members = members} end
      end
    end
    table.sort(found, function(a, b) return a.score < b.score end)
    for _, those in ipairs(found) do
      for at = 1, #those.members, 2 do add('ready', one.pool, those.turn, those.members[at]) end
    end
  end
end
return entries
