-- claim: take queues that are due, and the first of what is due in them.
--
-- KEYS[1] stem
-- ARGV[1] token of the drain, [2] lease in ms, [3] default delay in ms, [4] most queues, [5] most events of each
--   kind for one queue, [6] most events in all, [7] queues that the drain holds, [8] 1 if the reply to its last claim
--   was lost
-- Returns {now, version, score of the schedule's next entry or '', queues being removed, claimed}, claimed a list
-- of {queue, 1 if it may send one probe, deaths, "<n> <m> <event>": the event that was alone in flight at m of them,
-- and had just gone out at the last n, endpoint resumed at, events of each kind asked for, events}; then the queues
-- that were this drain's already, and {queue, what is wrong with its keys}, ...

local token, lease = ARGV[1], tonumber(ARGV[2])
local default_delay, per_queue, left = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local ends = now + lease
-- An equal share for each busy worker; what nobody has taken for a moment anybody may take.
local GRACE = 50
-- A drain says every half second that it is alive: what was in flight then had not just gone out at its death.
local JUST = 500
-- When to look again at a queue whose keys are not what they should be.
local BROKEN_AGAIN = 60000
local busy = math.max(1, redis.call('ZCARD', base .. 'busy'))
local due_queues = redis.call('ZCOUNT', SCHEDULE, '-inf', whole(now))
local share = math.ceil((due_queues + ARGV[7]) / busy) - ARGV[7]

-- A drain that held this queue, and said so last at `seen`, never gave it back: it died, or lost its lease.
local function note_death(queue, seen)
  redis.call('HINCRBY', base .. 'deaths', queue, 1)
  local sent, id = string.match(redis.call('HGET', base .. 'alone', queue) or '', '^(%d+) (.*)$')
  if not sent then return end
  local quick, all, known = string.match(redis.call('HGET', base .. 'suspect', queue) or '', '^(%d+) (%d+) (.*)$')
  if known ~= id then quick, all = 0, 0 end
  quick = seen - sent < JUST and quick + 1 or 0
  redis.call('HSET', base .. 'suspect', queue, quick .. ' ' .. (all + 1) .. ' ' .. id)
  redis.call('HDEL', base .. 'alone', queue)
end

local noted = redis.pcall('HLEN', base .. 'deaths')
local some_died = type(noted) == 'number' and noted > 0

local claimed, removing, own, broken = {}, {}, {}, {}

local function claim(queue, score)
  local endpoint = endpoint_of(queue)
  local health = health_of(endpoint)
  local previous = redis.call('HGET', OWNER, queue)
  if previous == token then
    -- Its renewal is late, or the reply that gave it to the drain was lost.
    redis.call('ZADD', SCHEDULE, whole(ends), queue)
    own[#own + 1] = queue
  elseif health.paused == 'removing' then
    redis.call('HDEL', OWNER, queue)
    redis.call('ZADD', SCHEDULE, whole(now + 1000), queue)
    removing[#removing + 1] = queue
  elseif health.paused or gate_of(health) > now then
    if previous then note_death(queue, score - lease) end
    redis.call('HDEL', OWNER, queue)
    reschedule(queue, default_delay)
  else
    local deaths, suspect = 0, ''
    if previous then note_death(queue, score - lease) end
    if previous or some_died then
      deaths = tonumber(redis.call('HGET', base .. 'deaths', queue) or 0)
      suspect = redis.call('HGET', base .. 'suspect', queue) or ''
    end
    -- A queue whose drains died may have to go one event at a time, and wait for its turn.
    local wanted = (health.open or deaths > 0) and 1 or math.min(per_queue, left)
    local events = read_queue(queue, default_delay, '', wanted, '-inf', wanted)
    redis.call('HSET', OWNER, queue, token)
    redis.call('ZADD', SCHEDULE, whole(ends), queue)
    if health.open then
      set_health(endpoint, health, 'probe', token .. ' ' .. queue)
      set_health(endpoint, health, 'probe_until', ends)
    end
    left = left - #events
    claimed[#claimed + 1] = {queue, health.open and 1 or 0, deaths, suspect, whole(health.resumed_at or 0), wanted,
                             events}
  end
end

-- What a lost reply gave to the drain. As many queues as the fleet holds, and only after a lost reply.
if ARGV[8] == '1' then
  local owners = redis.call('HGETALL', OWNER)
  for index = 1, #owners, 2 do
    if owners[index + 1] == token then own[#own + 1] = owners[index] end
  end
end

local due = redis.call('ZRANGEBYSCORE', SCHEDULE, '-inf', whole(now), 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for index = 1, #due, 2 do
  local queue, score = due[index], tonumber(due[index + 1])
  if left <= 0 or budget <= 0 or (#claimed >= share and score > now - GRACE) then break end
  if not string.match(queue, '^[%l%d_-]+%.%d+$') then
    redis.call('ZREM', SCHEDULE, queue)
    redis.call('HDEL', OWNER, queue)
    broken[#broken + 1] = {queue, 'this is no name of a queue'}
  else
    local sound, fault = guarded(claim, queue, score)
    if not sound then
      redis.call('HDEL', OWNER, queue)
      redis.call('ZADD', SCHEDULE, whole(now + BROKEN_AGAIN), queue)
      broken[#broken + 1] = {queue, fault}
    end
  end
end
local first = redis.call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')
return {whole(now), version(), first[2] or '', removing, claimed, own, broken}
