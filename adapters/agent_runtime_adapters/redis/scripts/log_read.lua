#!lua flags=no-writes
-- KEYS: the log, its events.
local after, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local log = find(KEYS[1])
if not log then
  return false
end
local begin = math.max(after + 1, log.first) - log.first
local events = {}
if limit > 0 then
  events = redis.call('LRANGE', KEYS[2], text(begin), text(begin + limit - 1))
end
return { log.first, log.last, log.closed, events }
