-- Enqueue users whose presence may have changed, to be checked after a delay.
--
-- KEYS: presence
-- ARGV: delay in milliseconds, users...

local time = redis.call('TIME')
local due = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], due, ARGV[i]) end
