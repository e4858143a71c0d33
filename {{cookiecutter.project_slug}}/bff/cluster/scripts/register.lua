-- Put a connection into its user's index, and read what its user was sent since a position.
--
-- KEYS: meta, stream, connections
-- ARGV: seconds that a quiet position stays good, epoch, offset, most messages, most bytes,
--       connection id, entry, how many a user may have
-- Returns a page (stream.lua), or nothing when the user has too many.

local known = redis.call('HEXISTS', KEYS[3], ARGV[6]) == 1
if not known and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[8]) then return {} end
redis.call('HSET', KEYS[3], ARGV[6], ARGV[7])
return page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
