-- What every transition shares. The loader puts this file in front of each script.
--
-- THE DATA MODEL. Every key of one shard starts with KEYS[1], the stem "<prefix>{<shard>}:", so that one
-- script may touch them all, in Redis Cluster too. Times are Unix milliseconds by this server's clock.
--
--   schedule            zset    queue -> when to look at it next. Owned: when its owner's lease ends. Unowned:
--                               max(the endpoint's gate, when its first event is due). Empty or paused: absent.
--   owner               hash    queue -> token of the drain that holds it
--   new:<queue>         stream  never attempted; e = packed event, [t = arrival, when the id does not tell it]
--   retry:<queue>       zset    "<attempts>,<free>,<first due>\n<packed event>" -> next attempt
--   dead:<endpoint>     stream  dead letters: q queue, r reason, d detail, p progress, e packed event
--   dead                hash    endpoint -> bytes of its dead letters (so also: who has any)
--   health:<endpoint>   hash    paused, paused_at, resumed_at | not_before | fails, open, probe_at, probe_wait,
--                               probe, probe_until, wins | failing_since, blocked_since |
--                               delay (ms, when not the default), partitions (most queues it ever had)
--   attempts:<endpoint> stream  the last attempts (failures always, successes sampled)
--   stats:<endpoint>:<m|h><n> hash  counters of one minute (kept 2 h) or hour (kept 8 days)
--   deaths              hash    queue -> drains that died holding it, since one lived to serve it
--   alone               hash    queue -> "<ms> <event id>": what is in flight alone, and since when
--   suspect             hash    queue -> "<n> <m> <event id>": alone at m of these deaths, just gone out at the last n
--   ahead               hash    queue -> when an entry id from the future was first seen (the clock stepped back)
--   version             string  the registry's version
--   counters            hash    emitted, unrouted, dead letters dropped, and the like
--   pushed:<id>         string  an event that was pushed by a call of its own, or with an id of its caller
--   pushed:<stem>.      string  a chunk that was pushed: how many ids "<stem>-<n>" were made for it; 0: one that is
--                               being completed event by event
--   idle, busy          zset    worker -> until when that is believed
--   calling, maintenance  string  the worker whose turn it is to ask for a drain, or to repair; they expire
--
-- An event is in exactly one of new, retry and dead; each script moves it in one step and may run twice.

local base = KEYS[1]
local SCHEDULE, OWNER = base .. 'schedule', base .. 'owner'
-- An id this far ahead of the clock did not come from a clock that is a few milliseconds off.
local SKEW = 1000

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local now = clock()

-- Lua prints large numbers as 1.7e+12; Redis wants them whole.
local function whole(number)
  return string.format('%.0f', number)
end

-- Do what concerns one queue or endpoint alone: a key of the wrong type, or a field that is no number, must not
-- stop the others. Returns true and the result, or false and what was wrong. What the server's ACL refuses is wrong with
-- the login and with no queue, so it stops the script: Redis 7.0 says it in the second way.
local function guarded(action, ...)
  local ok, result = pcall(action, ...)
  if ok then return true, result end
  local fault = type(result) == 'table' and result.err or tostring(result)
  if string.find(fault, 'ACL failure in script', 1, true) or string.find(fault, 'The user executing the script', 1, true)
  then
    error(result, 0)
  end
  return false, fault
end

local function version()
  return redis.call('GET', base .. 'version') or '0'
end

-- The registry has changed. Where its version is no number any more, the time is one that nobody has seen yet.
local function next_version()
  local sound, value = guarded(redis.call, 'INCR', base .. 'version')
  if sound then return tostring(value) end
  redis.call('SET', base .. 'version', whole(now))
  return whole(now)
end

-- What only tells people how much there was: where it cannot be counted, nothing else is to fail for it.
local function tell(name, by)
  guarded(redis.call, 'HINCRBY', base .. 'counters', name, by)
end

-- A drain lived to give the queue back, or nothing is left in it.
local function forget_deaths(queue)
  for _, name in ipairs({'deaths', 'alone', 'suspect'}) do redis.call('HDEL', base .. name, queue) end
end

local function endpoint_of(queue)
  return string.match(queue, '^(.*)%.%d+$') or queue
end

local HEALTH = {'paused', 'not_before', 'open', 'probe_at', 'probe', 'probe_until', 'delay', 'resumed_at',
                'fails', 'wins', 'probe_wait', 'failing_since', 'blocked_since', 'partitions'}
local healths = {}
-- As endpoint.MAX_QUEUES. What a hash says may be anything, and this server does nothing else while a script runs.
local MOST_PARTITIONS = 64

-- A number that one of our scripts can have written; nil for any other, for infinity and for what is none.
local function sane(value)
  local number = tonumber(value)
  return number and math.abs(number) <= 9007199254740992 and number or nil
end

-- The endpoint's health, read once per call. Absent fields are nil, numbers are numbers.
local function health_of(endpoint)
  local health = healths[endpoint]
  if not health then
    health = {}
    local values = redis.call('HMGET', base .. 'health:' .. endpoint, unpack(HEALTH))
    for index, name in ipairs(HEALTH) do
      local value = values[index]
      if value then
        health[name] = (name == 'paused' or name == 'probe') and value or sane(value)
      end
    end
    healths[endpoint] = health
  end
  return health
end

local function set_health(endpoint, health, name, value)
  if health[name] == value then return end
  health[name] = value
  if value == nil then
    redis.call('HDEL', base .. 'health:' .. endpoint, name)
  else
    redis.call('HSET', base .. 'health:' .. endpoint, name, type(value) == 'number' and whole(value) or value)
  end
end

-- No attempt before this time: the endpoint asked to be left alone, or its breaker is open.
local function gate_of(health)
  local gate = health.not_before or 0
  if health.open then
    local probed = health.probe and (health.probe_until or 0) > now
    gate = math.max(gate, (probed and health.probe_until or health.probe_at) or 0)
  end
  return gate
end

local function field(entry, name)
  local fields = entry[2]
  for index = 1, #fields, 2 do
    if fields[index] == name then return fields[index + 1] end
  end
  return nil
end

-- When a new event arrived. A failover may have stepped the clock back and left ids in the future behind:
-- those count from when they were first seen, or their events would wait for the clock to catch up. Whoever is
-- only looking does not write that down.
local function arrival(queue, entry, looking)
  local arrived = tonumber(field(entry, 't')) or tonumber(string.match(entry[1], '^%d+'))
  if arrived > now + SKEW then
    if not looking then redis.call('HSETNX', base .. 'ahead', queue, whole(now)) end
    arrived = tonumber(redis.call('HGET', base .. 'ahead', queue) or now)
  end
  return arrived
end

-- When the first event of a queue is due; nil when it is empty. Ids drop the microseconds, so an event is due
-- one millisecond after id + delay, never before.
local function next_due(queue, delay, looking)
  local due
  local head = redis.call('XRANGE', base .. 'new:' .. queue, '-', '+', 'COUNT', 1)[1]
  if head then
    due = arrival(queue, head, looking) + delay + 1
    if not looking and tonumber(string.match(head[1], '^%d+')) <= now + SKEW then
      redis.call('HDEL', base .. 'ahead', queue)
    end
  end
  local first = redis.call('ZRANGE', base .. 'retry:' .. queue, 0, 0, 'WITHSCORES')
  if first[2] then due = math.min(due or math.huge, tonumber(first[2])) end
  return due
end

-- Write the score of a queue that nobody owns, and return it; nil for a queue that is empty or paused.
local function reschedule(queue, default_delay)
  local health = health_of(endpoint_of(queue))
  local due = next_due(queue, health.delay or default_delay)
  if not due then
    redis.call('DEL', base .. 'new:' .. queue)
    redis.call('HDEL', base .. 'ahead', queue)
    forget_deaths(queue)
  end
  if due and (not health.paused or health.paused == 'removing') then
    -- What is being removed is swept, not sent: no gate and no delay is for it.
    local score = health.paused and now or math.max(now, due, gate_of(health))
    redis.call('ZADD', SCHEDULE, whole(score), queue)
    return score
  end
  redis.call('ZREM', SCHEDULE, queue)
  return nil
end

local function owned(queue)
  return redis.call('HEXISTS', OWNER, queue) == 1
end

-- Make sure that a queue nobody owns is looked at by `due`, never earlier than its gate.
local function lower(queue, due)
  local score = redis.call('ZSCORE', SCHEDULE, queue)
  if score and tonumber(score) <= due then return end
  if owned(queue) then return end
  local health = health_of(endpoint_of(queue))
  if health.paused then return end
  due = math.max(due, gate_of(health))
  if not score or due < tonumber(score) then redis.call('ZADD', SCHEDULE, whole(due), queue) end
end

local function each_queue(endpoint, visit)
  local partitions = math.min(health_of(endpoint).partitions or 1, MOST_PARTITIONS)
  for number = 0, math.max(partitions, 1) - 1 do visit(endpoint .. '.' .. number) end
end

local function reschedule_unowned(endpoint, default_delay)
  each_queue(endpoint, function(queue)
    if not owned(queue) then reschedule(queue, default_delay) end
  end)
end

local function pause(endpoint, reason)
  local health = health_of(endpoint)
  if health.paused then return end
  set_health(endpoint, health, 'paused', reason)
  redis.call('HSET', base .. 'health:' .. endpoint, 'paused_at', whole(now))
  each_queue(endpoint, function(queue)
    if not owned(queue) then redis.call('ZREM', SCHEDULE, queue) end
  end)
end

local function count(endpoint, name, by)
  for _, bucket in ipairs({{'m', 60000, 7200}, {'h', 3600000, 691200}}) do
    local key = base .. 'stats:' .. endpoint .. ':' .. bucket[1] .. math.floor(now / bucket[2])
    guarded(function()
      if redis.call('HINCRBY', key, name, by) == by then redis.call('EXPIRE', key, bucket[3]) end
    end)
  end
end

-- Count bytes of dead letters; what is no number begins anew.
local function count_dead(endpoint, by)
  local sound, bytes = guarded(redis.call, 'HINCRBY', base .. 'dead', endpoint, by)
  if sound then return bytes end
  redis.call('HSET', base .. 'dead', endpoint, math.max(by, 0))
  return math.max(by, 0)
end

-- Dead letters are bounded by age and bytes; what falls out is counted. At most `steps` a call.
local function trim_dead(endpoint, max_bytes, keep, steps)
  local key = base .. 'dead:' .. endpoint
  local bytes = sane(redis.call('HGET', base .. 'dead', endpoint) or 0) or 0
  local dropped = 0
  while dropped < steps do
    local head = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    if not head then break end
    local old = tonumber(string.match(head[1], '^%d+')) < now - keep
    if bytes <= max_bytes and not old then break end
    redis.call('XDEL', key, head[1])
    bytes = count_dead(endpoint, -#(field(head, 'e') or ''))
    dropped = dropped + 1
  end
  if dropped > 0 then
    count(endpoint, 'dropped', dropped)
    tell('dropped', dropped)
  end
  if redis.call('XLEN', key) == 0 then
    redis.call('DEL', key)
    redis.call('HDEL', base .. 'dead', endpoint)
  end
  return dropped
end

local function bury(queue, packed, progress, reason, detail)
  local endpoint = endpoint_of(queue)
  redis.call('XADD', base .. 'dead:' .. endpoint, '*', 'q', queue, 'r', reason, 'd', detail, 'p', progress,
             'e', packed)
  count_dead(endpoint, #packed)
  count(endpoint, 'dead', 1)
end

-- Turn up to `limit` of a queue's oldest events into dead letters, or drop them. What waits in retry arrived
-- before the head of new, so it goes first. Only for queues that nobody owns.
local function sweep(queue, limit, reason, detail, drop)
  local swept = 0
  for _, member in ipairs(redis.call('ZRANGE', base .. 'retry:' .. queue, 0, limit - 1)) do
    local progress, packed = string.match(member, '^([^\n]*)\n(.*)$')
    if not drop then bury(queue, packed or member, progress or '', reason, detail) end
    redis.call('ZREM', base .. 'retry:' .. queue, member)
    swept = swept + 1
  end
  if swept < limit then
    local entries = redis.call('XRANGE', base .. 'new:' .. queue, '-', '+', 'COUNT', limit - swept)
    for _, entry in ipairs(entries) do
      if not drop then bury(queue, field(entry, 'e') or '', '', reason, detail) end
      redis.call('XDEL', base .. 'new:' .. queue, entry[1])
      swept = swept + 1
    end
  end
  return swept
end

-- What the owner of a queue may have read ahead or in flight; nobody else takes that from it.
local OWNERS_SHARE = 512

-- As sweep, for a queue that somebody owns: what is behind the owner's share. It reads that share as well, so it is
-- worth it only when there is much to take: with every push it took 7 ms where events are large.
local function sweep_behind(queue, limit, reason, detail)
  if limit < OWNERS_SHARE then return end
  local key = base .. 'new:' .. queue
  local entries = redis.call('XRANGE', key, '-', '+', 'COUNT', OWNERS_SHARE + limit)
  for index = OWNERS_SHARE + 1, #entries do
    bury(queue, field(entries[index], 'e') or '', '', reason, detail)
    redis.call('XDEL', key, entries[index][1])
  end
end

-- Keep a queue within its share of max_backlog; at most `limit` a call, or what an owner may hold.
local function cap_backlog(queue, cap, limit, dead_bytes, dead_keep)
  local over = redis.call('XLEN', base .. 'new:' .. queue) + redis.call('ZCARD', base .. 'retry:' .. queue) - cap
  if over <= 0 then return end
  local take = sweep
  if owned(queue) then take, limit = sweep_behind, math.max(limit, OWNERS_SHARE) end
  take(queue, math.min(over, limit), 'backlog_full', 'the endpoint had more events waiting than max_backlog')
  trim_dead(endpoint_of(queue), dead_bytes, dead_keep, limit)
end
