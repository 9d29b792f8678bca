#!lua
-- KEYS: the log, its events, the index of the owner's logs. ARGV from 7 on: the events, without the first `skipped` of them,
-- which the log would drop at once.
local ttl, stream, expected, operation = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local closed, skipped, max_events, max_bytes = struct.unpack('>Bddd', ARGV[6])
local BEGIN = 7

local log = find(KEYS[1])
if log then
  if log.operation == operation then
    return log.last
  elseif log.closed == 1 then
    return 'closed'
  elseif log.last ~= expected then
    return 'changed'
  end
elseif expected > 0 then
  return 'missing'
end
if not log or skipped > 0 then
  local last = expected + skipped
  redis.call('UNLINK', KEYS[2])
  log = { first = last + 1, last = last, size = 0 }
end

for begin = BEGIN, #ARGV, 1000 do
  redis.call('RPUSH', KEYS[2], unpack(ARGV, begin, math.min(begin + 999, #ARGV)))
end
for place = BEGIN, #ARGV do
  log.size = log.size + #ARGV[place] - SEAL
end
log.last = log.last + #ARGV - BEGIN + 1
while log.last - log.first >= max_events or log.size > max_bytes do
  log.size = log.size - #redis.call('LPOP', KEYS[2]) + SEAL
  log.first = log.first + 1
end

redis.call('SET', KEYS[1], struct.pack(LOG, log.first, log.last, log.size, now + ttl, closed, operation))
keep(KEYS[1], ttl)
keep(KEYS[2], ttl)
index(KEYS[3], stream, ttl)
return log.last
