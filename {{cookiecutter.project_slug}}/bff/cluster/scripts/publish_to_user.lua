-- Publish an envelope to every instance that has a connection of a user, or to all instances.
--
-- KEYS: connections
-- ARGV: envelope, prefix of the instance channels, or the channel of all instances,
--       '1' to publish to all instances
-- Returns the number of connections in the index.

if ARGV[3] == '1' then
  redis.call('PUBLISH', ARGV[2], ARGV[1])
  return redis.call('HLEN', KEYS[1])
end
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
