-- Add a connection to its user's index, and read what the user's stream contains after a position.
--
-- KEYS: meta, stream, connections, counter of connects
-- ARGV: seconds after which the position of an unused stream expires, epoch, offset,
--       maximum number of messages, maximum bytes, connection id, entry,
--       maximum number of connections of a user, maximum number of connects within a period,
--       seconds of a period, 0 if this connect was counted before
-- Returns a page (stream.lua); an empty table when the user has too many connections; or the seconds
-- to wait when the user connects too often.

if ARGV[10] ~= '0' then
  local connects = redis.call('INCR', KEYS[4])
  if connects == 1 then redis.call('EXPIRE', KEYS[4], ARGV[10]) end
  if connects > tonumber(ARGV[9]) then return {math.max(1, redis.call('TTL', KEYS[4])), connects} end
end
local known = redis.call('HEXISTS', KEYS[3], ARGV[6]) == 1
if not known and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[8]) then return {} end
redis.call('HSET', KEYS[3], ARGV[6], ARGV[7])
return page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
