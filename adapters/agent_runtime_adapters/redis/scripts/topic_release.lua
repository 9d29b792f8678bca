#!lua flags=allow-oom
-- KEYS: the topic. ARGV: the group, the consumer, for how long they are said to have lain, whether they were tried, and from 5
-- on the numbers of messages. They become those of nobody.
local NOBODY = '*'
for place = 5, #ARGV do
  local message = held(KEYS[1], ARGV[1], ARGV[2], ARGV[place])
  if message then
    local attempts = message[4] - 1 + ARGV[4]
    redis.call('XCLAIM', KEYS[1], ARGV[1], NOBODY, 0, ARGV[place], 'IDLE', ARGV[3], 'RETRYCOUNT', attempts, 'JUSTID')
  end
end
return 1
