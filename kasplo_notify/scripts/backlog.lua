-- backlog: how much endpoints have waiting, and how late the oldest of it is. Changes nothing.
--
-- KEYS[1] stem
-- ARGV[1] default delay in ms, then endpoints
-- Returns {now, {waiting, retrying, dead letters, ms since the oldest event came due}, ...} in that order.

local replies = {whole(now)}
for at = 2, #ARGV do
  local endpoint = ARGV[at]
  local waiting, retrying, oldest = 0, 0, now
  each_queue(endpoint, function(queue)
    waiting = waiting + redis.call('XLEN', base .. 'new:' .. queue)
    retrying = retrying + redis.call('ZCARD', base .. 'retry:' .. queue)
    oldest = math.min(oldest, next_due(queue, health_of(endpoint).delay or tonumber(ARGV[1]), true) or now)
  end)
  replies[#replies + 1] = {waiting, retrying, redis.call('XLEN', base .. 'dead:' .. endpoint), whole(now - oldest)}
end
return replies
