-- Remove what a dead generation left in one user's index, and nothing else.
--
-- KEYS: connections
-- ARGV: `<instance>#<generation>`
-- Returns how many entries were removed.

local mark, removed = ARGV[1] .. ' ', 0
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  if string.sub(entries[i + 1], 1, #mark) == mark then
    removed = removed + redis.call('HDEL', KEYS[1], entries[i])
  end
end
return removed
