-- resume: forget why an endpoint was left alone, and look at its queues again. Age counts from this moment.
--
-- KEYS[1] stem
-- ARGV[1] endpoint, [2] default delay in ms
-- Returns 1 if it was paused, waiting or behind an open breaker, 'removing' if it is being removed.

local endpoint = ARGV[1]
local health = health_of(endpoint)
if health.paused == 'removing' then return 'removing' end
local held_up = (health.paused or gate_of(health) > now) and 1 or 0
if health.paused then set_health(endpoint, health, 'resumed_at', now) end
-- Also what is no number and so is not known of here.
local forgotten = {'paused', 'paused_at', 'not_before', 'fails', 'open', 'probe_at', 'probe_wait', 'probe', 'probe_until',
                   'wins', 'failing_since', 'blocked_since'}
redis.call('HDEL', base .. 'health:' .. endpoint, unpack(forgotten))
for _, name in ipairs(forgotten) do health[name] = nil end
reschedule_unowned(endpoint, tonumber(ARGV[2]))
return held_up
