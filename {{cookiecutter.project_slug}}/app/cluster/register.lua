-- Put a connection into its user's index.
--
-- KEYS: connections, meta, stream
-- ARGV: connection id, entry, how many a user may have, seconds that a quiet position stays good
-- Returns epoch and offset of the user's stream, or nothing when the user has too many.

local known = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
if not known and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return {} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local epoch, offset = position(KEYS[2], KEYS[3], ARGV[4])
return {epoch, offset}
