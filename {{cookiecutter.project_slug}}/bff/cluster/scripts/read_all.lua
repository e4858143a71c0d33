-- Read what the stream `all` contains after a position, and the version of the retained broadcasts.
--
-- KEYS: meta, stream
-- ARGV: seconds after which the position of an unused stream expires, epoch, offset,
--       maximum number of messages, maximum bytes
-- Returns how often the retained broadcasts have changed in this epoch, and a page (stream.lua).

local found = page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
return {redis.call('HGET', KEYS[1], 'greetings') or '0', found}
