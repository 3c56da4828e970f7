-- peek: what a dispatcher sees, and whether it is its turn to ask for one more drain.
--
-- KEYS[1] stem
-- ARGV[1] worker, [2] idle | busy | gone, [3] ms for which that is believed
-- Returns {now, version, queues due that nobody holds (100 at most), score of the schedule's first entry or '',
--   workers idle, workers busy, ms since the first due queue came due, 1 if a drain should be asked for}.

local CALL_EVERY, LEAVE_TO_BUSY = 50, 50

for _, state in ipairs({'idle', 'busy'}) do
  local key = base .. state
  if state == ARGV[2] then
    redis.call('ZADD', key, whole(now + ARGV[3]), ARGV[1])
  else
    redis.call('ZREM', key, ARGV[1])
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
end

local due = redis.call('ZCOUNT', SCHEDULE, '-inf', whole(now))
local first = redis.call('ZRANGE', SCHEDULE, 0, 0, 'WITHSCORES')[2]
local late = due > 0 and now - tonumber(first) or 0
local idle, busy = redis.call('ZCARD', base .. 'idle'), redis.call('ZCARD', base .. 'busy')
local call = 0
-- One dispatcher of the fleet at a time asks; a drain that runs already gets a moment to take it.
if due > 0 and idle > 0 and (busy == 0 or late >= LEAVE_TO_BUSY) then
  call = redis.call('SET', base .. 'calling', ARGV[1], 'NX', 'PX', CALL_EVERY) and 1 or 0
end
return {whole(now), version(), math.min(due, 100), first or '', idle, busy, whole(late), call}
