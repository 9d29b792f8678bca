#!lua
-- KEYS: the topic. ARGV from 2 on: id and data of each message.
local last = ends(KEYS[1])
for place = 2, #ARGV, 2 do
  last = last + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], string.format('%.0f-0', last), 'i', ARGV[place], 'd', ARGV[place + 1])
end
return 1
