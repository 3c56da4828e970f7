-- release: give queues back. A queue that was served goes to the back of the line.
--
-- KEYS[1] stem
-- ARGV[1] token, [2] default delay in ms, [3] how many of the queues were not served, then the queues, those first
-- Returns {now, version, queues that were still held, how many of them are due at once, workers idle, score of the
-- schedule's first entry or ''}.

local default_delay = tonumber(ARGV[2])
local released, still_due = 0, 0

local function release(queue)
  local endpoint = endpoint_of(queue)
  local health = health_of(endpoint)
  if health.probe == ARGV[1] .. ' ' .. queue then
    set_health(endpoint, health, 'probe', nil)
    set_health(endpoint, health, 'probe_until', nil)
    -- The other queues were put off until the end of the probe's lease.
    reschedule_unowned(endpoint, default_delay)
  end
  if reschedule(queue, default_delay) == now then still_due = still_due + 1 end
  -- The removal of an endpoint is found by its first queue, and this may have been the last that kept it waiting.
  if health.paused == 'removing' and not owned(endpoint .. '.0') then
    redis.call('ZADD', SCHEDULE, 'NX', whole(now), endpoint .. '.0')
  end
end

for at = 4, #ARGV do
  local queue = ARGV[at]
  if redis.call('HGET', OWNER, queue) == ARGV[1] then
    redis.call('HDEL', OWNER, queue)
    -- Deaths that it may be the cause of count until it was served and nobody died.
    if at - 3 > tonumber(ARGV[3]) then forget_deaths(queue) end
    -- Where its keys are not what they should be the next claim finds it, and says so.
    if not guarded(release, queue) then redis.call('ZADD', SCHEDULE, whole(now), queue) end
    released = released + 1
  end
end
local first = redis.call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')[2]
return {whole(now), version(), released, still_due, redis.call('ZCARD', base .. 'idle'), first or ''}
