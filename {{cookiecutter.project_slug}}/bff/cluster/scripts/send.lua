-- Store a message and tell whoever holds its readers, in one round trip.
--
-- KEYS: meta, stream, idempotency key, connections (a user's message only)
-- ARGV: text up to the id, stream name, envelope up to the epoch, channel,
--       stream length, stream seconds, position seconds, '1' to send only once under the key
-- Returns the message id and how many connections the index names (0 for all).
--
-- With connections the channel is the part before the instance id. An envelope is
-- `<kind>\n<reader>\n<epoch>\n<offset>\n<text>`: the text is finished here, once.

local once = ARGV[8] == '1'
if once then
  local before = redis.call('HMGET', KEYS[3], 'id', 'addressed')
  if before[1] then return {before[1], tonumber(before[2])} end
end

local epoch = position(KEYS[1], KEYS[2])
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
redis.call('EXPIRE', KEYS[1], ARGV[7])
local id = ARGV[2] .. '/' .. epoch .. '/' .. offset
local text = ARGV[1] .. id .. '"}}'
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], offset .. '-0', 'text', text)
redis.call('EXPIRE', KEYS[2], ARGV[6])

local envelope = ARGV[3] .. epoch .. '\n' .. offset .. '\n' .. text
local addressed = 0
if KEYS[4] then
  local told = {}
  for _, connection in ipairs(redis.call('HKEYS', KEYS[4])) do
    local instance = string.match(connection, '^[^.]+')
    addressed = addressed + 1
    if not told[instance] then
      told[instance] = true
      redis.call('PUBLISH', ARGV[4] .. instance, envelope)
    end
  end
else
  redis.call('PUBLISH', ARGV[4], envelope)
end

if once then
  redis.call('HSET', KEYS[3], 'id', id, 'addressed', addressed)
  redis.call('EXPIRE', KEYS[3], math.max(ARGV[6], ARGV[7]))
end
return {id, addressed}
