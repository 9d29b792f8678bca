#!lua flags=no-writes
-- The message count, and the appends with the last so many messages: no more than twice as many as are needed.
local session = find(here)
if not session then return nil end
local last, size = tonumber(ARGV[4]), redis.call('LLEN', here.m)
local first = last and session.count - last or 0
local taken = math.min(last or size, size)
local items = {}
while taken > 0 do
  items = redis.call('LRANGE', here.m, -taken, -1)
  if taken == size or struct.unpack('>I8', items[1]) <= first then break end
  taken = math.min(2 * taken, size)
end
table.insert(items, 1, session.count)
return items
