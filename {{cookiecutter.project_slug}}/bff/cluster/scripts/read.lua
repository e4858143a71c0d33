-- Read what a stream holds after a position.
--
-- KEYS: meta, stream
-- ARGV: seconds that a quiet position stays good, epoch, offset, most messages, most bytes
-- Returns a page (stream.lua).

return page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
