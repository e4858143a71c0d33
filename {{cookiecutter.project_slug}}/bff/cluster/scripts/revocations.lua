-- Read all revocations, unless the instance has them already, and remove those that are too old.
--
-- KEYS: meta and stream of `all`, revocations
-- ARGV: seconds after which the position of an unused stream expires, seconds that a revocation is
--       kept, then what the instance has: epoch, number of changes, number of revocations
-- Returns epoch, number of changes, and 0, or 1 and key, time, key, time, ...

local epoch = position(KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', redis.call('TIME')[1] - ARGV[2])
local changes = redis.call('HGET', KEYS[1], 'revocations') or '0'
if epoch == ARGV[3] and changes == ARGV[4] and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[5]) then
  return {epoch, changes, 0}
end
local result = {epoch, changes, 1}
for _, one in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')) do
  result[#result + 1] = one
end
return result
