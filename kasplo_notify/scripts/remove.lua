-- remove: one step of the removal of an endpoint that is marked as removing. Run it until it says 'removed'.
-- Queues that a drain still holds are left to it; they are swept when it has given them back or its lease ended.
--
-- KEYS[1] stem, [2] endpoints hash
-- ARGV[1] endpoint, [2] keep (dead letters) | drop, [3] most events a step, [4] most bytes and [5] most ms of dead
--   letters
-- Returns {'removing', events swept, queues still held} | {'removed', events swept, 0} | {'not removing', 0, 0}.

local endpoint, left = ARGV[1], tonumber(ARGV[3])
local health = health_of(endpoint)
if health.paused ~= 'removing' then return {'not removing', 0, 0} end
local swept, held, empty = 0, 0, true
each_queue(endpoint, function(queue)
  if owned(queue) and tonumber(redis.call('ZSCORE', SCHEDULE, queue) or 0) > now then
    held = held + 1
    empty = false
    return
  end
  redis.call('HDEL', OWNER, queue)
  if left > swept then
    swept = swept + sweep(queue, left - swept, 'endpoint_removed', 'the endpoint was removed', ARGV[2] == 'drop')
  end
  if reschedule(queue, 0) then empty = false end
end)
trim_dead(endpoint, tonumber(ARGV[4]), tonumber(ARGV[5]), left)
if not empty then return {'removing', swept, held} end
redis.call('HDEL', KEYS[2], endpoint)
redis.call('DEL', base .. 'health:' .. endpoint, base .. 'attempts:' .. endpoint)
next_version()
return {'removed', swept, 0}
