-- release: give queues back. A queue that was served goes to the back of the line.
--
-- KEYS[1] stem
-- ARGV[1] token, [2] default delay in ms, then the queues
-- Returns {now, version, queues that were still held, how many of them are due at once, workers idle}.

local released, still_due = 0, 0
for at = 3, #ARGV do
  local queue = ARGV[at]
  if redis.call('HGET', OWNER, queue) == ARGV[1] then
    local endpoint = endpoint_of(queue)
    local health = health_of(endpoint)
    redis.call('HDEL', OWNER, queue)
    redis.call('HDEL', base .. 'deaths', queue)
    redis.call('HDEL', base .. 'alone', queue)
    if health.probe == ARGV[1] .. ' ' .. queue then
      set_health(endpoint, health, 'probe', nil)
      set_health(endpoint, health, 'probe_until', nil)
      -- The other queues were put off until the end of the probe's lease.
      reschedule_unowned(endpoint, tonumber(ARGV[2]))
    end
    if reschedule(queue, tonumber(ARGV[2])) == now then still_due = still_due + 1 end
    released = released + 1
  end
end
return {whole(now), version(), released, still_due, redis.call('ZCARD', base .. 'idle')}
