-- Prelude of the other scripts: where a stream stands.
--
-- The epoch names one life of the stream. A new one begins when there is none yet, and when Redis
-- is not the process that began it: a Redis that came back with older data would otherwise give
-- out the same offsets twice. Embedded Redis has no INFO and lives as long as its process.

local function run_id()
  local info = redis.pcall('INFO', 'server')
  if type(info) == 'table' then return 'embedded' end
  return string.match(info, 'run_id:(%w+)')
end

local function position(meta, stream, seconds)
  local run = run_id()
  local known = redis.call('HMGET', meta, 'epoch', 'offset', 'run')
  local epoch, offset = known[1], known[2]
  if known[3] ~= run then
    local now = redis.call('TIME')
    epoch = string.sub(run, 1, 8) .. string.format('%x', now[1] * 1000000 + now[2])
    offset = '0'
    redis.call('DEL', stream)
    redis.call('HSET', meta, 'epoch', epoch, 'offset', offset, 'run', run)
  end
  redis.call('EXPIRE', meta, seconds)
  return epoch, offset
end
