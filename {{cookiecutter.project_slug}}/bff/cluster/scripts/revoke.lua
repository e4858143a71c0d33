-- Add revocations, and publish those that are new.
--
-- KEYS: meta and stream of `all`, revocations
-- ARGV: channel, head of the envelope, seconds after which the position of an unused stream
--       expires, seconds that a revocation is kept, then time, key, time, key, ...
-- Returns epoch and number of changes.
--
-- The envelope is `<head>\n<epoch>\n<number of changes>`, then a line `<time> <key>` for each.

local epoch = position(KEYS[1], KEYS[2])
local lines = {}
for i = 5, #ARGV, 2 do
  local known = redis.call('ZSCORE', KEYS[3], ARGV[i + 1])
  if not known or tonumber(known) < tonumber(ARGV[i]) then
    redis.call('ZADD', KEYS[3], ARGV[i], ARGV[i + 1])
    lines[#lines + 1] = ARGV[i] .. ' ' .. ARGV[i + 1]
  end
end
if #lines == 0 then return {epoch, redis.call('HGET', KEYS[1], 'revocations') or '0'} end
local changes = redis.call('HINCRBY', KEYS[1], 'revocations', 1)
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
redis.call('EXPIRE', KEYS[3], ARGV[4])
redis.call('PUBLISH', ARGV[1], ARGV[2] .. '\n' .. epoch .. '\n' .. changes .. '\n' .. table.concat(lines, '\n'))
return {epoch, tostring(changes)}
