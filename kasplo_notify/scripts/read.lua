-- read: more of what is due in queues that a drain holds. Changes nothing but the note of a clock step.
--
-- KEYS[1] stem
-- ARGV[1] token, [2] default delay in ms, then for each queue: its name, last entry id read ('' = none), most new
--   events, lowest retry score ('-inf' = any), most retries
-- Returns {now, version, a list of {1 if it is still held and sound, events} in the order of the queues}.

local replies = {}
for at = 3, #ARGV, 5 do
  local queue = ARGV[at]
  local held = redis.call('HGET', OWNER, queue) == ARGV[1]
  local sound, events = true, {}
  if held then
    sound, events = guarded(read_queue, queue, tonumber(ARGV[2]), ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3],
                          tonumber(ARGV[at + 4]))
  end
  replies[#replies + 1] = sound and {held and 1 or 0, events} or {0, {}}
end
return {whole(now), version(), replies}
