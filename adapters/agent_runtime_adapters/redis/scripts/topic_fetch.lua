#!lua
-- KEYS: the topic, the ids that the group knows, its dead letters.
local stream, known, dead = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, limit, idle = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local max_attempts, max_dead_letters, reason = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local ROUNDS = 100 -- so that no number of duplicates makes others wait for long
local found = {}

local function take(entry, attempt)
  local place, id, data = entry[1], entry[2][2], entry[2][4]
  if #entry[2] ~= 4 then
    id, data = '', '' -- of somebody else: no event either
  end
  if redis.call('ZSCORE', known, id) then
    redis.call('XACK', stream, group, place)
  elseif attempt > max_attempts then
    local letter = { place = place, id = id, data = data, attempt = attempt, reason = reason }
    bury(stream, dead, group, letter, max_dead_letters)
  else
    found[#found + 1] = { place, id, data, attempt }
  end
end

-- What others let lie; the server forgets on the way what is dropped already.
local cursor = '0-0'
repeat
  local reply = redis.pcall('XAUTOCLAIM', stream, group, consumer, idle, cursor, 'COUNT', limit - #found)
  if reply.err then
    redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
    break
  end
  cursor = reply[1]
  for _, entry in ipairs(reply[2]) do
    take(entry, held(stream, group, consumer, entry[1])[4])
  end
until cursor == '0-0' or #found >= limit

for _ = 1, ROUNDS do
  if #found >= limit then
    break
  end
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #found, 'STREAMS', stream, '>')
  if not reply then
    local last = ends(stream)
    return { found, last }
  end
  for _, entry in ipairs(reply[1][2]) do
    take(entry, 1)
  end
end
return { found, 0 }
