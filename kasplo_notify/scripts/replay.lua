-- replay: dead letters back into the retry sets of their endpoint, due at once, with their attempts forgotten.
--
-- KEYS[1] stem
-- ARGV[1] endpoint, [2] its queues, then the ids of dead letters
-- Returns the number that were still there.

local endpoint, queues, replayed = ARGV[1], tonumber(ARGV[2]), 0
local key = base .. 'dead:' .. endpoint
for at = 3, #ARGV do
  local entry = redis.call('XRANGE', key, ARGV[at], ARGV[at])[1]
  if entry then
    local packed = field(entry, 'e') or ''
    local number = tonumber(string.match(field(entry, 'q') or '', '%d+$') or 0) % queues
    local queue = endpoint .. '.' .. whole(number)
    redis.call('ZADD', base .. 'retry:' .. queue, whole(now), '0,0,' .. whole(now) .. '\n' .. packed)
    lower(queue, now)
    redis.call('XDEL', key, ARGV[at])
    count_dead(endpoint, -#packed)
    replayed = replayed + 1
  end
end
trim_dead(endpoint, math.huge, math.huge, 0)
return replayed
