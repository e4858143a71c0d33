-- Compare the index entries of one user with the connections that one instance has, and let the
-- entries expire when no instance does this any more.
--
-- KEYS: connections
-- ARGV: `<instance>.`, `<instance>#<generation> `,
--       `<instance>#<generation>` of every lease, between spaces,
--       seconds after which the entries expire, the connection ids
-- Returns nothing when nothing differs, else two lists:
-- 1. the ids of entries without a connection, of connections without an entry, and of entries of
--    another generation
-- 2. for each entry of another instance that has no lease, its `<instance>#<generation>`

local missing, differing, without_lease = {}, {}, {}
for i = 5, #ARGV do missing[ARGV[i]] = true end
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local id, value = entries[i], entries[i + 1]
  if string.sub(id, 1, #ARGV[1]) == ARGV[1] then
    if not missing[id] or string.sub(value, 1, #ARGV[2]) ~= ARGV[2] then
      table.insert(differing, id)
    end
    missing[id] = nil
  else
    local member = string.sub(value, 1, string.find(value, ' ', 1, true) - 1)
    if not string.find(ARGV[3], ' ' .. member .. ' ', 1, true) then
      table.insert(without_lease, member)
    end
  end
end
for id in pairs(missing) do table.insert(differing, id) end
if #ARGV > 4 and redis.call('TTL', KEYS[1]) < ARGV[4] / 2 then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
if #differing > 0 or #without_lease > 0 then return {differing, without_lease} end
