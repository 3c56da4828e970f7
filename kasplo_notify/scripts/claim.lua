-- claim: take queues that are due, and the first of what is due in them.
--
-- KEYS[1] stem
-- ARGV[1] token of the drain, [2] lease in ms, [3] default delay in ms, [4] most queues, [5] most events of each
--   kind for one queue, [6] most events in all, [7] queues that the drain holds
-- Returns {now, version, score of the schedule's next entry or '', queues being removed, claimed}, claimed a list
-- of {queue, 1 if it may send one probe, deaths, the event alone at them, endpoint resumed at, events of each kind
-- asked for, events}.

local token, lease = ARGV[1], tonumber(ARGV[2])
local default_delay, per_queue, left = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local ends = now + lease
-- An equal share for each busy worker; what nobody has taken for a moment anybody may take.
local GRACE = 50
local busy = math.max(1, redis.call('ZCARD', base .. 'busy'))
local due_queues = redis.call('ZCOUNT', SCHEDULE, '-inf', whole(now))
local share = math.ceil((due_queues + ARGV[7]) / busy) - ARGV[7]

-- A drain that held this queue never gave it back: it died, or lost its lease.
local function note_death(queue)
  local deaths = redis.call('HINCRBY', base .. 'deaths', queue, 1)
  local alone = redis.call('HGET', base .. 'alone', queue)
  if alone then
    local seen, id = string.match(alone, '^(%d+) (.*)$')
    alone = (tonumber(seen) + 1) .. ' ' .. id
    redis.call('HSET', base .. 'alone', queue, alone)
  end
  return deaths, alone or ''
end

local claimed, removing = {}, {}
local due = redis.call('ZRANGEBYSCORE', SCHEDULE, '-inf', whole(now), 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for index = 1, #due, 2 do
  local queue, score = due[index], tonumber(due[index + 1])
  if left <= 0 or budget <= 0 or (#claimed >= share and score > now - GRACE) then break end
  local endpoint = endpoint_of(queue)
  local health = health_of(endpoint)
  local previous = redis.call('HGET', OWNER, queue)
  if previous == token then
    -- Its renewal is late, but nobody else came: it goes on where it was.
    redis.call('ZADD', SCHEDULE, whole(ends), queue)
  elseif health.paused == 'removing' then
    redis.call('HDEL', OWNER, queue)
    redis.call('ZADD', SCHEDULE, whole(now + 1000), queue)
    removing[#removing + 1] = queue
  elseif health.paused or gate_of(health) > now then
    redis.call('HDEL', OWNER, queue)
    reschedule(queue, default_delay)
  else
    local deaths, alone = 0, ''
    if previous then
      deaths, alone = note_death(queue)
    end
    redis.call('HSET', OWNER, queue, token)
    redis.call('ZADD', SCHEDULE, whole(ends), queue)
    local wanted = math.min(per_queue, left)
    if health.open then
      set_health(endpoint, health, 'probe', token .. ' ' .. queue)
      set_health(endpoint, health, 'probe_until', ends)
      wanted = 1
    end
    local events = read_queue(queue, default_delay, '', wanted, '-inf', wanted)
    left = left - #events
    claimed[#claimed + 1] = {queue, health.open and 1 or 0, deaths, alone, whole(health.resumed_at or 0), wanted,
                             events}
  end
end
local first = redis.call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')
return {whole(now), version(), first[2] or '', removing, claimed}
