-- Take or renew the lease of one generation of one instance, by Redis' own clock.
--
-- KEYS: leases, facts
-- ARGV: `<instance>#<generation>`, lease in milliseconds, facts, '1' to take or '0' to renew,
--       to renew: the run id of the Redis that it was taken from
-- Returns whether the lease holds, the facts of the living, the members that are dead, the run id.
--
-- A lease that has run out cannot be renewed, even while nobody has reaped it: its entries may be
-- on their way out, and only a new generation is safe from that. Nor can one that another Redis
-- process has handed down: it may have lost what was written last, entries among it.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[4] == '0' then
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not ends or tonumber(ends) <= now or run_id() ~= ARGV[5] then return {0, {}, {}, ''} end
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local border = string.format('%.0f', now)
local living = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. border, '+inf')
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', border)
return {1, redis.call('HMGET', KEYS[2], unpack(living)), dead, run_id()}
