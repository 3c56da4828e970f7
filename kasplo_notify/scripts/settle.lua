-- settle: what came of a batch of attempts. An item takes effect only if its event is still where it was read, so
-- the whole may run twice. From a drain that lost the queue only "delivered" still counts: that event is done.
--
-- KEYS[1] stem
-- ARGV[1] token, [2] default delay in ms, [3] most bytes and [4] most ms of an endpoint's dead letters, [5] attempts
--   kept, [6] ms of nothing but failures before an endpoint is paused, [7] ms of nothing but refused addresses
-- then for each item: queue, kind (n | r), entry id or member, action (delivered | retry | pause | dead), progress
--   to store, ms until the next attempt, reason, detail, strike (1 = counts for the breaker), ms that the whole
--   endpoint waits (0 = not), HTTP status ('' = no answer), ms taken, attempt number ('' = none made), event id,
--   first bytes of the answer
-- Returns {now, version, number of items that took effect, {endpoint, paused or '', gate}, ...}: the endpoints of
-- this batch that must be left alone.

local token, default_delay = ARGV[1], tonumber(ARGV[2])
local dead_bytes, dead_keep, attempts_kept = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local pause_after, blocked_after = tonumber(ARGV[6]), tonumber(ARGV[7])
local FAILURES_TO_OPEN, WINS_TO_CLOSE, FIRST_PROBE, LAST_PROBE = 10, 3, 5000, 60000
local MS_BOUNDS = {5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000}

local tallies = {}
local function tally(endpoint, name)
  local names = tallies[endpoint] or {}
  tallies[endpoint] = names
  names[name] = (names[name] or 0) + 1
end

local function took_probe(endpoint, health, queue)
  if health.probe ~= token .. ' ' .. queue then return false end
  set_health(endpoint, health, 'probe', nil)
  set_health(endpoint, health, 'probe_until', nil)
  return true
end

local function healthy(endpoint, health)
  for _, name in ipairs({'failing_since', 'blocked_since', 'fails'}) do set_health(endpoint, health, name, nil) end
  if not health.open then return end
  set_health(endpoint, health, 'wins', (health.wins or 0) + 1)
  set_health(endpoint, health, 'probe_at', now)
  if health.wins >= WINS_TO_CLOSE then
    -- With the probe that may still be out: what comes of it is an attempt like any other.
    for _, name in ipairs({'open', 'wins', 'probe_at', 'probe_wait', 'probe', 'probe_until'}) do
      set_health(endpoint, health, name, nil)
    end
  end
  -- The other queues were put off until a later probe, or the end of the lease of one.
  reschedule_unowned(endpoint, default_delay)
end

local function failing(endpoint, health, item, probing)
  if not health.failing_since then set_health(endpoint, health, 'failing_since', now) end
  if item.reason ~= 'blocked' then
    set_health(endpoint, health, 'blocked_since', nil)
  elseif not health.blocked_since then
    set_health(endpoint, health, 'blocked_since', now)
  end
  if item.strike then
    set_health(endpoint, health, 'fails', (health.fails or 0) + 1)
    if not health.open and health.fails >= FAILURES_TO_OPEN then
      set_health(endpoint, health, 'open', 1)
      set_health(endpoint, health, 'wins', 0)
      set_health(endpoint, health, 'probe_wait', FIRST_PROBE)
      set_health(endpoint, health, 'probe_at', now + FIRST_PROBE)
    elseif probing then
      set_health(endpoint, health, 'wins', 0)
      set_health(endpoint, health, 'probe_wait', math.min(2 * (health.probe_wait or FIRST_PROBE), LAST_PROBE))
      set_health(endpoint, health, 'probe_at', now + health.probe_wait)
    end
  end
  if item.wait > 0 then
    set_health(endpoint, health, 'not_before', math.max(health.not_before or 0, now + item.wait))
  end
  if item.action == 'pause' then
    pause(endpoint, item.reason)
  elseif health.blocked_since and now - health.blocked_since >= blocked_after then
    pause(endpoint, 'blocked')
  elseif now - health.failing_since >= pause_after and (health.open or (health.fails or 0) >= FAILURES_TO_OPEN) then
    pause(endpoint, 'failing')
  end
end

-- The packed event if it is still where it was read, else nil.
local function find(item)
  if item.kind == 'r' then
    if not redis.call('ZSCORE', base .. 'retry:' .. item.queue, item.ref) then return nil end
    return string.match(item.ref, '^[^\n]*\n(.*)$') or item.ref
  end
  local entry = redis.call('XRANGE', base .. 'new:' .. item.queue, item.ref, item.ref)[1]
  return entry and (field(entry, 'e') or '')
end

local function take_out(item)
  if item.kind == 'r' then return redis.call('ZREM', base .. 'retry:' .. item.queue, item.ref) == 1 end
  return redis.call('XDEL', base .. 'new:' .. item.queue, item.ref) == 1
end

-- First where it goes, then out of where it was: a key of the wrong type stops the script, and must not cost the event.
local function move(item)
  if item.action == 'delivered' then return take_out(item) end
  local packed = find(item)
  if not packed then return false end
  if item.action == 'dead' then
    bury(item.queue, packed, item.progress, item.reason, item.detail)
    trim_dead(endpoint_of(item.queue), dead_bytes, dead_keep, 100)
  else
    local member = item.progress .. '\n' .. packed
    redis.call('ZADD', base .. 'retry:' .. item.queue, whole(now + item.delay), member)
    -- It was there under the same name: taking that out would take the event.
    if member == item.ref then return true end
  end
  return take_out(item)
end

-- A success of the same batch says nothing that the first one did not.
local sampled = {}
local function log_attempt(endpoint, item)
  if item.attempt == '' or (item.action == 'delivered' and sampled[endpoint]) then return end
  sampled[endpoint] = sampled[endpoint] or item.action == 'delivered'
  redis.call('XADD', base .. 'attempts:' .. endpoint, 'MAXLEN', '~', attempts_kept, '*', 'id', item.id,
             'attempt', item.attempt, 'status', item.status, 'ms', item.ms, 'result', item.action,
             'reason', item.reason, 'detail', item.detail, 'excerpt', item.excerpt)
end

local function bucket(ms)
  for _, bound in ipairs(MS_BOUNDS) do
    if ms <= bound then return 'ms' .. bound end
  end
  return 'msinf'
end

local function apply(item)
  local endpoint = endpoint_of(item.queue)
  local health = health_of(endpoint)
  if not move(item) then return false end
  if item.attempt ~= '' then
    local probing = took_probe(endpoint, health, item.queue)
    if item.action == 'delivered' then
      healthy(endpoint, health)
    else
      failing(endpoint, health, item, probing)
      -- The other queues were put off until the end of the probe's lease; the next probe is due before that.
      if probing then reschedule_unowned(endpoint, default_delay) end
    end
    tally(endpoint, item.action == 'delivered' and 'delivered' or 'failed')
    tally(endpoint, item.status == '' and 'none' or string.sub(item.status, 1, 1) .. 'xx')
    tally(endpoint, bucket(item.ms))
    log_attempt(endpoint, item)
  end
  return true
end

-- What was alone in flight was answered, and the drain lives.
local function acquit(item)
  redis.call('HDEL', base .. 'alone', item.queue)
  local suspect = redis.call('HGET', base .. 'suspect', item.queue)
  if suspect and string.match(suspect, '^%d+ %d+ (.*)$') == item.id then
    redis.call('HDEL', base .. 'suspect', item.queue)
  end
end

local owners, alone, applied, endpoints = {}, {}, 0, {}
for at = 8, #ARGV, 15 do
  local item = {
    queue = ARGV[at], kind = ARGV[at + 1], ref = ARGV[at + 2], action = ARGV[at + 3], progress = ARGV[at + 4],
    delay = tonumber(ARGV[at + 5]), reason = ARGV[at + 6], detail = ARGV[at + 7], strike = ARGV[at + 8] == '1',
    wait = tonumber(ARGV[at + 9]), status = ARGV[at + 10], ms = tonumber(ARGV[at + 11]),
    attempt = ARGV[at + 12], id = ARGV[at + 13], excerpt = ARGV[at + 14],
  }
  local endpoint = endpoint_of(item.queue)
  if owners[item.queue] == nil then
    owners[item.queue] = redis.call('HGET', OWNER, item.queue) == token
    local sent = owners[item.queue] and redis.call('HGET', base .. 'alone', item.queue)
    alone[item.queue] = sent and string.match(sent, '^%d+ (.*)$')
  end
  endpoints[endpoint] = true
  if owners[item.queue] or item.action == 'delivered' then
    local sound, took_effect = guarded(apply, item)
    if alone[item.queue] == item.id then acquit(item) end
    if not sound then
      -- Its event may still be there and would be sent again and again.
      guarded(pause, endpoint, 'broken')
    elseif took_effect then
      applied = applied + 1
    end
  end
end

for endpoint, names in pairs(tallies) do
  for name, by in pairs(names) do guarded(count, endpoint, name, by) end
end
local reply = {whole(now), version(), applied}
for endpoint in pairs(endpoints) do
  local sound, health = guarded(health_of, endpoint)
  local paused, gate = 'broken', 0
  if sound then
    paused, gate = health.paused or '', gate_of(health)
  end
  -- While the breaker is open only probes go out, though a success that came late has made the next one due.
  if paused ~= '' or gate > now or (sound and health.open) then reply[#reply + 1] = {endpoint, paused, whole(gate)} end
end
return reply
