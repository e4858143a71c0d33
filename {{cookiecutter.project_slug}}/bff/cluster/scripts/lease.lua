-- Take or renew the lease of one generation of one instance, by Redis' clock.
--
-- KEYS: leases, facts
-- ARGV: `<instance>#<generation>`, lease in milliseconds, facts, '1' to take or '0' to renew,
--       to renew: the run id of the Redis process that granted the lease
-- Returns whether the lease is held, the facts of the living instances, the
-- `<instance>#<generation>` of each expired lease, the run id, the `<instance>#<generation>` of
-- each living instance.
--
-- An expired lease cannot be renewed, even if it has not been reaped yet: a reaper may be about to
-- remove its entries, and only a new generation is safe from that. A lease that another Redis
-- process granted cannot be renewed either: after a failover the latest entries may be lost.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[4] == '0' then
  local expires = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not expires or tonumber(expires) <= now or run_id() ~= ARGV[5] then return {0, {}, {}, '', {}} end
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local now_score = string.format('%.0f', now)
local living = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_score, '+inf')
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_score)
return {1, redis.call('HMGET', KEYS[2], unpack(living)), dead, run_id(), living}
