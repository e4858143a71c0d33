-- Read what the stream of all holds after a position, and which greetings are current.
--
-- KEYS: meta, stream
-- ARGV: seconds that a quiet position stays good, epoch, offset, most messages, most bytes
-- Returns how often the greetings were renewed in this epoch, and a page (stream.lua).

local found = page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
return {redis.call('HGET', KEYS[1], 'greetings') or '0', found}
