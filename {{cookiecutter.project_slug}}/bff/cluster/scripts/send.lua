-- Store a message in a stream and publish it to the instances that have its receivers.
--
-- KEYS: meta, stream, idempotency key, connections (only for the stream of a user)
-- ARGV: frame up to the message id, stream name, envelope up to the epoch, channel,
--       maximum stream length, stream expiry in seconds, position expiry in seconds,
--       '1' to use the idempotency key
-- Returns the message id and the number of connections in the index (0 for other streams).
--
-- With connections, the channel is the prefix of the instance channels. An envelope is
-- `<kind>\n<target>\n<epoch>\n<offset>\n<frame>`. The message id is added to the frame here, once
-- for all receivers.

local idempotent = ARGV[8] == '1'
if idempotent then
  local earlier = redis.call('HMGET', KEYS[3], 'id', 'addressed')
  if earlier[1] then return {earlier[1], tonumber(earlier[2])} end
end

local epoch = position(KEYS[1], KEYS[2])
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
redis.call('EXPIRE', KEYS[1], ARGV[7])
local id = ARGV[2] .. '/' .. epoch .. '/' .. offset
local frame = ARGV[1] .. id .. '"}}'
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], offset .. '-0', 'text', frame)
redis.call('EXPIRE', KEYS[2], ARGV[6])

local envelope = ARGV[3] .. epoch .. '\n' .. offset .. '\n' .. frame
local addressed = 0
if KEYS[4] then
  local published = {}
  for _, connection in ipairs(redis.call('HKEYS', KEYS[4])) do
    local instance = string.match(connection, '^[^.]+')
    addressed = addressed + 1
    if not published[instance] then
      published[instance] = true
      redis.call('PUBLISH', ARGV[4] .. instance, envelope)
    end
  end
else
  redis.call('PUBLISH', ARGV[4], envelope)
end

if idempotent then
  redis.call('HSET', KEYS[3], 'id', id, 'addressed', addressed)
  redis.call('EXPIRE', KEYS[3], math.max(ARGV[6], ARGV[7]))
end
return {id, addressed}
