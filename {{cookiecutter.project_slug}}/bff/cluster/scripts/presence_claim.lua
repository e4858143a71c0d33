-- Claim the users that are due. A user that is not released is due again when the claim expires.
--
-- KEYS: presence
-- ARGV: maximum number of users, duration of the claim in milliseconds
-- Returns milliseconds until the next user is due (-1: the queue is empty), then
-- user, score, user, score, ...

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claim_ends = string.format('%.0f', now + ARGV[2])
local due = redis.call(
  'ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
local claimed = {-1}
for _, user in ipairs(due) do
  redis.call('ZADD', KEYS[1], claim_ends, user)
  claimed[#claimed + 1] = user
  claimed[#claimed + 1] = claim_ends
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then claimed[1] = math.max(0, math.floor(first[2] - now)) end
return claimed
