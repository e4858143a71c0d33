-- Take users who are due. Whoever takes them has a while; then they are due again.
--
-- KEYS: presence
-- ARGV: how many, milliseconds until they are due again
-- Returns milliseconds until the next is due (-1: nobody waits), then user, mark, user, mark, ...

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local again = string.format('%.0f', now + ARGV[2])
local due = redis.call(
  'ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
local taken = {-1}
for _, user in ipairs(due) do
  redis.call('ZADD', KEYS[1], again, user)
  taken[#taken + 1] = user
  taken[#taken + 1] = again
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then taken[1] = math.max(0, math.floor(first[2] - now)) end
return taken
