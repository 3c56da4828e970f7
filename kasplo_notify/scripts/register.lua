-- register: write one endpoint's record and the routes that follow from it, if nobody else did meanwhile.
--
-- KEYS[1] stem, [2] endpoints hash, [3] routes string
-- ARGV[1] version the caller read, [2] name, [3] record, [4] routes, [5] its delay in ms ('' = the default),
--   [6] its queues, [7] default delay in ms, [8] new | changed | removing
-- Returns {'stale', version} | {'registered', version}.

local current = version()
if current ~= ARGV[1] then return {'stale', current} end
local endpoint = ARGV[2]
if ARGV[8] == 'new' then
  local partitions = redis.call('HGET', base .. 'health:' .. endpoint, 'partitions')
  redis.call('DEL', base .. 'health:' .. endpoint)
  if partitions then redis.call('HSET', base .. 'health:' .. endpoint, 'partitions', partitions) end
end
redis.call('HSET', KEYS[2], endpoint, ARGV[3])
redis.call('SET', KEYS[3], ARGV[4])
current = next_version()

local health = health_of(endpoint)
set_health(endpoint, health, 'delay', tonumber(ARGV[5]))
set_health(endpoint, health, 'partitions', math.max(health.partitions or 0, tonumber(ARGV[6])))
if ARGV[8] == 'removing' then set_health(endpoint, health, 'paused', 'removing') end
reschedule_unowned(endpoint, tonumber(ARGV[7]))
-- Should its command die here, the workers find it on the schedule, with a backlog or without.
if ARGV[8] == 'removing' and not owned(endpoint .. '.0') then
  redis.call('ZADD', SCHEDULE, whole(now), endpoint .. '.0')
end
return {'registered', current}
