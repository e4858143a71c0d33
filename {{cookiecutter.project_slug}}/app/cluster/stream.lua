-- Prelude of the other scripts: where a stream stands, and what it holds after a position.
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

-- What a stream holds after a position, as far as a page goes.
--
-- Returns epoch and offset of the newest message; 1 when all that followed the position is still
-- there, else 0; and offset, text, offset, text, ... An empty epoch asks for no messages.
local function page(meta, stream, seconds, epoch, after, count, bytes)
  local current, tip = position(meta, stream, seconds)
  if epoch == '' or (epoch == current and after == tip) then return {current, tip, 1} end
  local offset = tonumber(after)
  if epoch ~= current or offset > tonumber(tip) then return {current, tip, 0} end
  local entries = redis.call(
    'XRANGE', stream, string.format('%.0f-0', offset + 1), '+', 'COUNT', count)
  local answer, size = {current, tip, 1}, 0
  for i, entry in ipairs(entries) do
    if entry[1] ~= string.format('%.0f-0', offset + i) then break end
    local text = entry[2][2]
    size = size + #text
    if i > 1 and size > tonumber(bytes) then break end
    answer[#answer + 1] = string.format('%.0f', offset + i)
    answer[#answer + 1] = text
  end
  if #answer == 3 then answer[3] = 0 end
  return answer
end
