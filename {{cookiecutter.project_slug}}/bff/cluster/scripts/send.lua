-- Store a message in a stream and publish it to the instances that have its receivers.
--
-- KEYS: meta, stream, idempotency key, connections (only for the stream of a user)
-- ARGV: frame up to the epoch in the message id, stream name, envelope up to the epoch, channel,
--       maximum stream length, stream expiry in seconds, position expiry in seconds,
--       life of the idempotency key in seconds, 0 not to use it
-- Returns the message id and the number of connections in the index (0 for other streams).
--
-- With connections, the channel is the prefix of the instance channels. An envelope is
-- `<kind>\n<target>\n<epoch>\n<offset>\n<frame>`. Epoch and offset are added to the frame here, once
-- for all receivers. Before them it has the stream name, with the escapes of JSON.

local idempotent = ARGV[8] ~= '0'
if idempotent then
  local earlier = redis.call('HMGET', KEYS[3], 'id', 'addressed')
  if earlier[1] then return {earlier[1], tonumber(earlier[2])} end
end

local epoch = position(KEYS[1], KEYS[2])
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
local id = ARGV[2] .. '/' .. epoch .. '/' .. offset
local frame = ARGV[1] .. epoch .. '/' .. offset .. '"}}'
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], offset .. '-0', 'text', frame)
redis.call('EXPIRE', KEYS[2], ARGV[6])

local envelope = ARGV[3] .. epoch .. '\n' .. offset .. '\n' .. frame
local addressed, received = 0, 0
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
  received = addressed
else
  received = redis.call('PUBLISH', ARGV[4], envelope)
end

-- While no instance receives the message, no client learns its position: the position is only needed as
-- long as the stream. Clients that know an earlier one keep it, because this never shortens a life.
-- In a cluster PUBLISH does not count the subscribers at other nodes. But they have read the
-- position before the first message, and read it again when they check their streams.
if received > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[7])
else
  local life = redis.call('TTL', KEYS[1])
  if life >= 0 and offset == 1 then
    redis.call('EXPIRE', KEYS[1], ARGV[7])
  elseif life < tonumber(ARGV[6]) then
    redis.call('EXPIRE', KEYS[1], ARGV[6])
  end
end

if idempotent then
  redis.call('HSET', KEYS[3], 'id', id, 'addressed', addressed)
  redis.call('EXPIRE', KEYS[3], ARGV[8])
end
return {id, addressed}
