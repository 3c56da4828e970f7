-- purge: delete dead letters for good.
--
-- KEYS[1] stem
-- ARGV[1] endpoint, then the ids of dead letters
-- Returns the number that were still there.

local endpoint, purged = ARGV[1], 0
local key = base .. 'dead:' .. endpoint
for at = 2, #ARGV do
  local entry = redis.call('XRANGE', key, ARGV[at], ARGV[at])[1]
  if entry then
    redis.call('XDEL', key, ARGV[at])
    count_dead(endpoint, -#(field(entry, 'e') or ''))
    purged = purged + 1
  end
end
trim_dead(endpoint, math.huge, math.huge, 0)
return purged
