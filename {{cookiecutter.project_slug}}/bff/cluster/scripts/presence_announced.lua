-- Store how many changes of a user's presence were announced; an odd number means online.
--
-- KEYS: meta
-- ARGV: number of changes, expiry in seconds

if tonumber(redis.call('HGET', KEYS[1], 'presence') or 0) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'presence', ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
