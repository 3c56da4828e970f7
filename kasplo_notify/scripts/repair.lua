-- repair: a queue that holds events and that nobody would ever look at is put back on the schedule; dead letters
-- that are too old fall out. Both are kept right by every other script; this one is for what nobody foresaw.
--
-- KEYS[1] stem
-- ARGV[1] default delay in ms, [2] most bytes and [3] most ms of dead letters, [4] lease in ms, then endpoints
-- Returns the queues that had to be put back.

local default_delay, lease, mended = tonumber(ARGV[1]), tonumber(ARGV[4]), {}

local function repair(queue)
  local score = tonumber(redis.call('ZSCORE', SCHEDULE, queue) or '')
  if not score then
    redis.call('HDEL', OWNER, queue)
    if reschedule(queue, default_delay) then mended[#mended + 1] = queue end
  elseif score > now + 2 * lease and owned(queue) then
    -- No lease ends so late: its owner took it before the clock stepped back, and has not renewed it since.
    redis.call('HDEL', OWNER, queue)
    reschedule(queue, default_delay)
  elseif score > now and not owned(queue) then
    -- Where the clock has stepped back since, it may be hours too late.
    reschedule(queue, default_delay)
  end
end

local function repair_all(endpoint)
  if health_of(endpoint).paused == 'removing' then redis.call('ZADD', SCHEDULE, 'NX', whole(now), endpoint .. '.0') end
  each_queue(endpoint, function(queue) guarded(repair, queue) end)
end

for at = 5, #ARGV do
  guarded(repair_all, ARGV[at])
  guarded(trim_dead, ARGV[at], tonumber(ARGV[2]), tonumber(ARGV[3]), 1000)
end
return mended
