#!lua flags=allow-oom
-- KEYS: the topic, the ids that the group knows. ARGV: the group, how many ids it knows, and from 3 on number and id of each
-- message.
local time = redis.call('TIME')
for place = 3, #ARGV, 2 do
  redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[place])
  redis.call('ZADD', KEYS[2], string.format('%.0f', time[1] * 1000000 + time[2]), ARGV[place + 1])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[2])
return 1
