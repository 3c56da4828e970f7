-- repair: a queue that holds events and that nobody would ever look at is put back on the schedule; dead letters
-- that are too old fall out. Both are kept right by every other script; this one is for what nobody foresaw.
--
-- KEYS[1] stem
-- ARGV[1] default delay in ms, [2] most bytes and [3] most ms of dead letters, then endpoints
-- Returns the queues that had to be put back.

local default_delay, mended = tonumber(ARGV[1]), {}

local function repair(endpoint)
  if health_of(endpoint).paused == 'removing' then redis.call('ZADD', SCHEDULE, 'NX', whole(now), endpoint .. '.0') end
  each_queue(endpoint, function(queue)
    local score = redis.call('ZSCORE', SCHEDULE, queue)
    if not score then
      redis.call('HDEL', OWNER, queue)
      if reschedule(queue, default_delay) then mended[#mended + 1] = queue end
    elseif tonumber(score) > now and not owned(queue) then
      -- Where the clock has stepped back since, it may be hours too late.
      reschedule(queue, default_delay)
    end
  end)
  trim_dead(endpoint, tonumber(ARGV[2]), tonumber(ARGV[3]), 1000)
end

for at = 4, #ARGV do guarded(repair, ARGV[at]) end
return mended
