-- Functions for all scripts: the position of a stream, and what it contains after a position.

-- Identifies the Redis process. The in-memory Redis has no INFO; it ends with its process.
local function run_id()
  local info = redis.pcall('INFO', 'server')
  if type(info) == 'table' then return 'embedded' end
  return string.match(info, 'run_id:(%w+)')
end

-- Returns epoch and offset of the newest message. A new epoch begins when the stream is new, and
-- when another Redis process began the last epoch: after a restart or a failover Redis may have
-- older data, and would assign the same offsets twice.
--
-- The first write of a script must be a command that Redis refuses when it is out of memory: after
-- the first write Redis lets a script continue. So EXPIRE and DEL come later.
local function position(meta, stream)
  local run = run_id()
  local stored = redis.call('HMGET', meta, 'epoch', 'offset', 'run')
  local epoch, offset = stored[1], stored[2]
  if stored[3] ~= run then
    local now = redis.call('TIME')
    epoch = string.sub(run, 1, 8) .. string.format('%x', now[1] * 1000000 + now[2])
    offset = '0'
    redis.call('HSET', meta, 'epoch', epoch, 'offset', offset, 'run', run)
    redis.call('DEL', stream)
  end
  return epoch, offset
end

-- Returns one page of what a stream contains after a position: epoch and offset of the newest
-- message; 1 if everything after the position is still there, else 0; then offset, frame, offset,
-- frame, ... With an empty epoch the page contains no messages.
--
-- The stream is read in small steps: frames may be large, and reading a hundred of them would
-- block Redis for the few that fit into the page.
local function page(meta, stream, seconds, epoch, after, count, bytes, unused_seconds)
  local current, tip = position(meta, stream)
  redis.call('EXPIRE', meta, tip == '0' and unused_seconds or seconds)
  if epoch == '' or (epoch == current and after == tip) then return {current, tip, 1} end
  local offset = tonumber(after)
  if epoch ~= current or offset > tonumber(tip) then return {current, tip, 0} end
  local result, found, size, step, continues = {current, tip, 1}, 0, 0, 1, true
  while continues and found < tonumber(count) and size < tonumber(bytes) do
    local first = string.format('%.0f-0', offset + found + 1)
    local entries = redis.call('XRANGE', stream, first, '+', 'COUNT', math.min(step, count - found))
    continues = #entries > 0
    for _, entry in ipairs(entries) do
      local frame = entry[2][2]
      size = size + #frame
      continues = entry[1] == string.format('%.0f-0', offset + found + 1)
        and (found == 0 or size <= tonumber(bytes))
      if not continues then break end
      found = found + 1
      result[#result + 1] = string.format('%.0f', offset + found)
      result[#result + 1] = frame
    end
    step = 8
  end
  if found == 0 then result[3] = 0 end
  return result
end
