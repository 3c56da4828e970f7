-- pause: no more attempts for an endpoint; its backlog stays.
--
-- KEYS[1] stem
-- ARGV[1] endpoint, [2] reason
-- Returns why it is paused, which is an earlier reason if there was one.

pause(ARGV[1], ARGV[2])
return health_of(ARGV[1]).paused
