-- Compare the index entries of one user with the connections that one instance has.
--
-- KEYS: connections
-- ARGV: `<instance>.`, `<instance>#<generation> `, the connection ids
-- Returns the ids that differ: of entries without a connection, of connections without an entry,
-- and of entries of another generation.

local missing, differing = {}, {}
for i = 3, #ARGV do missing[ARGV[i]] = true end
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local id = entries[i]
  if string.sub(id, 1, #ARGV[1]) == ARGV[1] then
    if not missing[id] or string.sub(entries[i + 1], 1, #ARGV[2]) ~= ARGV[2] then
      table.insert(differing, id)
    end
    missing[id] = nil
  end
end
for id in pairs(missing) do table.insert(differing, id) end
return differing
