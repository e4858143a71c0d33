-- Remember how many changes of a user's presence were told: with an odd number he is online.
--
-- KEYS: meta
-- ARGV: how many, seconds

if tonumber(redis.call('HGET', KEYS[1], 'presence') or 0) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'presence', ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
