-- renew: push out the lease of the queues that a drain holds, and hear what has changed about their endpoints.
--
-- KEYS[1] stem
-- ARGV[1] token, [2] lease in ms, then the queues
-- Returns {now, version, a list of {1 if still held, paused or '', gate} in the order of the queues}.

local replies = {}
for at = 3, #ARGV do
  local queue = ARGV[at]
  local held = redis.call('HGET', OWNER, queue) == ARGV[1]
  if held then redis.call('ZADD', SCHEDULE, whole(now + ARGV[2]), queue) end
  local sound, health = guarded(health_of, endpoint_of(queue))
  replies[#replies + 1] = sound and {held and 1 or 0, health.paused or '', whole(gate_of(health))}
                          or {held and 1 or 0, 'broken', '0'}
end
return {whole(now), version(), replies}
