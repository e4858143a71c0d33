-- Read what a stream contains after a position.
--
-- KEYS: meta, stream
-- ARGV: seconds after which the position of an unused stream expires, epoch, offset,
--       maximum number of messages, maximum bytes, the first argument while the stream has never
--       had a message
-- Returns a page (stream.lua).

return page(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
