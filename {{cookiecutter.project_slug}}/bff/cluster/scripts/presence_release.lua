-- Remove a user that was checked from the queue, unless the user was enqueued again since.
--
-- KEYS: presence
-- ARGV: user, score of the claim

if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('ZREM', KEYS[1], ARGV[1]) end
