-- hasten: retries of an endpoint that wait for their time are due now. Run it until it has moved as many as waited.
--
-- KEYS[1] stem
-- ARGV[1] endpoint, [2] most a step
-- Returns the number that were brought forward.

local endpoint, left = ARGV[1], tonumber(ARGV[2])
each_queue(endpoint, function(queue)
  if left <= 0 then return end
  local key = base .. 'retry:' .. queue
  local members = redis.call('ZRANGEBYSCORE', key, '(' .. whole(now), '+inf', 'LIMIT', 0, left)
  for index, member in ipairs(members) do
    -- In their order, and few with the same score: whoever reads on begins with the score that it has read.
    redis.call('ZADD', key, string.format('%.3f', now - 1 + index / #members), member)
  end
  left = left - #members
  if #members > 0 then lower(queue, now) end
end)
return tonumber(ARGV[2]) - left
