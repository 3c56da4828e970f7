-- What is due in one queue; in front of claim and read.

-- A reply is bounded in bytes, for all its queues together: one event may be 256 KiB.
local budget = 1048576
local STEP = 16

-- Up to `fresh` events never attempted with ids after `after` ('' = from the start), and up to `again` retries
-- from score `from` on. Returns a list of {'n', id, arrival, packed event} and {'r', member, score, ''}.
local function read_queue(queue, default_delay, after, fresh, from, again)
  local delay = health_of(endpoint_of(queue)).delay or default_delay
  local found = {}
  local function take(kind, ref, time, packed)
    budget = budget - #ref - #packed
    found[#found + 1] = {kind, ref, whole(time), packed}
  end

  local start = after == '' and '-' or '(' .. after
  while fresh > 0 and budget > 0 do
    local entries = redis.call('XRANGE', base .. 'new:' .. queue, start, '+', 'COUNT', math.min(fresh, STEP))
    fresh = #entries < STEP and 0 or fresh - STEP
    for _, entry in ipairs(entries) do
      local arrived = arrival(queue, entry)
      if now <= arrived + delay then
        fresh = 0
        break
      end
      take('n', entry[1], arrived, field(entry, 'e') or '')
      start = '(' .. entry[1]
    end
  end

  local skip = 0
  while again > 0 and budget > 0 do
    local members = redis.call('ZRANGEBYSCORE', base .. 'retry:' .. queue, from, whole(now), 'WITHSCORES',
                               'LIMIT', skip, math.min(again, STEP))
    for index = 1, #members, 2 do take('r', members[index], members[index + 1], '') end
    skip = skip + STEP
    again = #members < 2 * STEP and 0 or again - STEP
  end
  return found
end
