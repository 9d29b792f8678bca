#!lua flags=allow-oom
local session = find(here)
if not session then return 0 end
local names = ARGV[4] ~= '' and {ARGV[4]} or redis.call('ZRANGE', here.c, 0, -1)
local gone = 0
for _, name in ipairs(names) do
  gone = gone + redis.call('HDEL', here.s, 'c:' .. name)
  redis.call('ZREM', here.c, name)
end
return gone
