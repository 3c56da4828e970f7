-- push: the events of one emit() into the queues of their endpoints. All or nothing.
-- Refused by a full Redis before it starts (no allow-oom), so a refusal changes nothing.
--
-- KEYS[1] stem of the shard's keys
-- ARGV[1] registry version the producer routed by
-- ARGV[2] token of this call ('' = none), [3] its life in ms, [4] life of a caller's own event id in ms
-- ARGV[5] most bytes, [6] most ms of an endpoint's dead letters
-- ARGV[7] number of queues, then for each: queue, delay in ms, most events
-- then for each event: the caller's own id ('' = generated), packed event, its queues as positions in that list,
--   separated by spaces
-- Returns {'stale', version} | {'repeated', 0}: this very call | {'pushed', number of events that were not there
-- yet, position of each that was}

local current = version()
if current ~= ARGV[1] then return {'stale', current} end
if ARGV[2] ~= '' and redis.call('EXISTS', base .. 'pushed:' .. ARGV[2]) == 1 then return {'repeated', 0} end

-- The key of the chunk that may have made this id, and its number there: ids "<stem>-0", "<stem>-1", ... are of "<stem>."
local function chunk_of(id)
  local stem, number = string.match(id, '^(msg_%x+)%-(%d+)$')
  if not stem or (number ~= '0' and string.sub(number, 1, 1) == '0') then return nil end
  return base .. 'pushed:' .. stem .. '.', tonumber(number)
end

-- Whether an event of this id was pushed before: by itself, or in the chunk that made its id.
local function applied(id)
  if id == '' then return false end
  if redis.call('EXISTS', base .. 'pushed:' .. id) == 1 then return true end
  local chunk, number = chunk_of(id)
  if not chunk then return false end
  local sound, made = guarded(redis.call, 'GET', chunk)
  return number < (sound and sane(made or 0) or 0)
end

local queues, at = {}, 8
for position = 1, tonumber(ARGV[7]) do
  queues[position] = {name = ARGV[at], delay = tonumber(ARGV[at + 1]), cap = tonumber(ARGV[at + 2]), pushed = 0}
  at = at + 3
end

-- An event for a queue whose keys are not what they should be becomes a dead letter, and the others get theirs.
for _, queue in ipairs(queues) do
  queue.sound, queue.fault = guarded(function()
    redis.call('XLEN', base .. 'new:' .. queue.name)
    redis.call('ZCARD', base .. 'retry:' .. queue.name)
  end)
  -- Where those are broken, too, nothing may have been stored when this stops the script.
  if not queue.sound then redis.call('XLEN', base .. 'dead:' .. endpoint_of(queue.name)) end
end

local function append(queue, packed)
  queue.pushed = queue.pushed + 1
  if not queue.sound then return bury(queue.name, packed, '', 'broken_queue', queue.fault) end
  local key = base .. 'new:' .. queue.name
  local id = redis.call('XADD', key, '*', 'e', packed)
  if tonumber(string.match(id, '^%d+')) > now + SKEW then
    redis.call('XDEL', key, id)
    redis.call('XADD', key, '*', 'e', packed, 't', whole(now))
  end
end

-- A chunk that is completed event by event is closed: when its own push arrives after all, held up in the network for
-- longer than its producer waited, it changes nothing.
local closed
local function close_chunk(id)
  local chunk = chunk_of(id)
  if chunk and chunk ~= closed then redis.call('SET', chunk, 0, 'NX', 'PX', ARGV[4]) end
  closed = chunk
end

local pushed, unrouted, position = 0, 0, 0
local reply = {'pushed', 0}
while at <= #ARGV do
  local own, packed, positions = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  position = position + 1
  if applied(own) then
    reply[#reply + 1] = position
  else
    for queue in string.gmatch(positions, '%d+') do append(queues[tonumber(queue)], packed) end
    if own ~= '' then
      redis.call('SET', base .. 'pushed:' .. own, 1, 'PX', ARGV[4])
      close_chunk(own)
    end
    pushed = pushed + 1
    if positions == '' then unrouted = unrouted + 1 end
  end
end
if ARGV[2] ~= '' then redis.call('SET', base .. 'pushed:' .. ARGV[2], position, 'PX', ARGV[3]) end

for _, queue in ipairs(queues) do
  -- The events are stored: what goes wrong from here on is mended by repair, and must not make the caller repeat.
  local most = 2 * queue.pushed + 8
  if queue.pushed > 0 and queue.sound then
    guarded(lower, queue.name, now + queue.delay + 1)
    guarded(cap_backlog, queue.name, queue.cap, most, tonumber(ARGV[5]), tonumber(ARGV[6]))
  elseif queue.pushed > 0 then
    guarded(trim_dead, endpoint_of(queue.name), tonumber(ARGV[5]), tonumber(ARGV[6]), most)
  end
end
if pushed > 0 then
  tell('emitted', pushed)
  if unrouted > 0 then tell('unrouted', unrouted) end
end
reply[2] = pushed
return reply
