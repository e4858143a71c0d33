-- Remove a user that was checked from the queue, unless the user was enqueued again since. If
-- another instance has checked and removed the user meanwhile, this check may be out of date: it is
-- repeated.
--
-- KEYS: presence
-- ARGV: user, score of the claim

local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score == ARGV[2] then
  redis.call('ZREM', KEYS[1], ARGV[1])
elseif not score then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
end
