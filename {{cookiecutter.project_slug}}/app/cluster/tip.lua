-- KEYS: meta, stream
-- ARGV: seconds that a quiet position stays good
-- Returns epoch and offset of the newest message.

local epoch, offset = position(KEYS[1], KEYS[2], ARGV[1])
return {epoch, offset}
