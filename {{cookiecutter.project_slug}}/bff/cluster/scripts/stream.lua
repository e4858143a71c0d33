-- Prelude of the other scripts: where a stream stands, and what it holds after a position.

-- The Redis process. Embedded Redis has no INFO and lives as long as its process.
local function run_id()
  local info = redis.pcall('INFO', 'server')
  if type(info) == 'table' then return 'embedded' end
  return string.match(info, 'run_id:(%w+)')
end

-- The epoch names one life of the stream. A new one begins when there is none yet, and when Redis
-- is not the process that began it: a Redis that came back with older data would otherwise give
-- out the same offsets twice.
--
-- The first write of a script must be one that a Redis without memory refuses: once a script has
-- written anything, it lets it go on. So EXPIRE and DEL come later.
local function position(meta, stream)
  local run = run_id()
  local known = redis.call('HMGET', meta, 'epoch', 'offset', 'run')
  local epoch, offset = known[1], known[2]
  if known[3] ~= run then
    local now = redis.call('TIME')
    epoch = string.sub(run, 1, 8) .. string.format('%x', now[1] * 1000000 + now[2])
    offset = '0'
    redis.call('HSET', meta, 'epoch', epoch, 'offset', offset, 'run', run)
    redis.call('DEL', stream)
  end
  return epoch, offset
end

-- What a stream holds after a position, as far as a page goes. It is read in steps: texts may be
-- large, and a hundred of them would keep Redis busy for the few that fit.
--
-- Returns epoch and offset of the newest message; 1 when all that followed the position is still
-- there, else 0; and offset, text, offset, text, ... An empty epoch asks for no messages.
local function page(meta, stream, seconds, epoch, after, count, bytes)
  local current, tip = position(meta, stream)
  redis.call('EXPIRE', meta, seconds)
  if epoch == '' or (epoch == current and after == tip) then return {current, tip, 1} end
  local offset = tonumber(after)
  if epoch ~= current or offset > tonumber(tip) then return {current, tip, 0} end
  local answer, found, size, step, goes_on = {current, tip, 1}, 0, 0, 1, true
  while goes_on and found < tonumber(count) and size < tonumber(bytes) do
    local first = string.format('%.0f-0', offset + found + 1)
    local entries = redis.call('XRANGE', stream, first, '+', 'COUNT', math.min(step, count - found))
    goes_on = #entries > 0
    for _, entry in ipairs(entries) do
      local text = entry[2][2]
      size = size + #text
      goes_on = entry[1] == string.format('%.0f-0', offset + found + 1)
        and (found == 0 or size <= tonumber(bytes))
      if not goes_on then break end
      found = found + 1
      answer[#answer + 1] = string.format('%.0f', offset + found)
      answer[#answer + 1] = text
    end
    step = 8
  end
  if found == 0 then answer[3] = 0 end
  return answer
end
