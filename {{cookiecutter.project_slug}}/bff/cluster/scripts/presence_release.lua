-- Let go of a user who was looked at, unless something has changed since.
--
-- KEYS: presence
-- ARGV: user, mark

if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('ZREM', KEYS[1], ARGV[1]) end
