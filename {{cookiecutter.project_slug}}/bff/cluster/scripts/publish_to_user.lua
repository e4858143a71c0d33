-- Publish an envelope to every instance that has a connection of a user.
--
-- KEYS: connections
-- ARGV: envelope, prefix of the instance channels
-- Returns the number of connections in the index.

local published, addressed = {}, 0
for _, connection in ipairs(redis.call('HKEYS', KEYS[1])) do
  local instance = string.match(connection, '^[^.]+')
  addressed = addressed + 1
  if not published[instance] then
    published[instance] = true
    redis.call('PUBLISH', ARGV[2] .. instance, ARGV[1])
  end
end
return addressed
