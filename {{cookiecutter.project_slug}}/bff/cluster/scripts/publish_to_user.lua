-- Give an order to every instance that holds a user.
--
-- KEYS: connections
-- ARGV: envelope, part of the channel before the instance id
-- Returns how many connections the index names.

local told, addressed = {}, 0
for _, connection in ipairs(redis.call('HKEYS', KEYS[1])) do
  local instance = string.match(connection, '^[^.]+')
  addressed = addressed + 1
  if not told[instance] then
    told[instance] = true
    redis.call('PUBLISH', ARGV[2] .. instance, ARGV[1])
  end
end
return addressed
