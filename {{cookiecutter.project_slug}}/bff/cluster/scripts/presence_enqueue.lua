-- Note users whose presence may have changed, to be looked at when a while has passed.
--
-- KEYS: presence
-- ARGV: milliseconds to wait, users...

local time = redis.call('TIME')
local due = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], due, ARGV[i]) end
