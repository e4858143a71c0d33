-- Store a control message and publish it to all instances.
--
-- KEYS: control log
-- ARGV: channel of all instances, head of the envelope, control message, maximum length, seconds

local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'm', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[1], ARGV[2] .. id .. '\n' .. ARGV[3])
