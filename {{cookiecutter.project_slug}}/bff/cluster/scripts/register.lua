-- Add a connection to its user's index, and read what the user's stream contains after a position.
--
-- KEYS: meta, stream, connections
-- ARGV: seconds after which the position of an unused stream expires, epoch, offset,
--       maximum number of messages, maximum bytes, connection id, entry,
--       maximum number of connections of a user
-- Returns a page (stream.lua), or an empty table when the user has too many connections.

local known = redis.call('HEXISTS', KEYS[3], ARGV[6]) == 1
if not known and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[8]) then return {} end
redis.call('HSET', KEYS[3], ARGV[6], ARGV[7])
return page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
