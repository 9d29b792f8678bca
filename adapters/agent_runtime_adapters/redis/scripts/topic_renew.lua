#!lua flags=allow-oom
-- KEYS: the topic. ARGV: the group, the consumer, and from 3 on the numbers of messages.
for place = 3, #ARGV do
  if held(KEYS[1], ARGV[1], ARGV[2], ARGV[place]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[place], 'JUSTID')
  end
end
return 1
