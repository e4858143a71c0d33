-- Read what the stream `all` contains after a position, and the versions of the retained broadcasts
-- and of the revocations.
--
-- KEYS: meta, stream
-- ARGV: seconds after which the position of an unused stream expires, epoch, offset,
--       maximum number of messages, maximum bytes
-- Returns how often the retained broadcasts, and the revocations, have changed in this epoch, and a
-- page (stream.lua).

local found = page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
local changes = redis.call('HMGET', KEYS[1], 'retained', 'revocations')
return {changes[1] or '0', changes[2] or '0', found}
