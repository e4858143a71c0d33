-- Read the control messages after one that is known.
--
-- KEYS: control log
-- ARGV: the first id to read, or '' to read none
-- Returns the id that the next read begins with, then ids and control messages in turns.

if ARGV[1] == '' then
  local now = redis.call('TIME')
  return {string.format('%d%03d-0', now[1], math.floor(now[2] / 1000))}
end
local found = {ARGV[1]}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+')) do
  local ms, seq = string.match(entry[1], '^(%d+)-(%d+)$')
  found[1] = ms .. '-' .. string.format('%d', seq + 1)
  table.insert(found, entry[1])
  table.insert(found, entry[2][2])
end
return found
