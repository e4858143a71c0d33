-- Remove the entries of one dead generation from one user's index.
--
-- KEYS: connections
-- ARGV: `<instance>#<generation>`
-- Returns the number of removed entries.

local prefix, removed = ARGV[1] .. ' ', 0
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  if string.sub(entries[i + 1], 1, #prefix) == prefix then
    removed = removed + redis.call('HDEL', KEYS[1], entries[i])
  end
end
return removed
