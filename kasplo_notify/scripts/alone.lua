-- alone: note the one event that is about to be in flight for a queue whose drains have died.
--
-- KEYS[1] stem
-- ARGV[1] token, [2] queue, [3] event id
-- Returns {now, version, 1 if the queue is still held}.

local held = redis.call('HGET', OWNER, ARGV[2]) == ARGV[1]
if held then redis.call('HSET', base .. 'alone', ARGV[2], whole(now) .. ' ' .. ARGV[3]) end
return {whole(now), version(), held and 1 or 0}
