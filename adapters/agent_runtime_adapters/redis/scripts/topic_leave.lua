#!lua flags=allow-oom
-- KEYS: the topic. Forgets the consumer, and those that were not heard of for an hour, where they have nothing: what a
-- consumer has would be gone with it.
local HOUR = 3600000
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
for _, facts in ipairs(consumers.err and {} or consumers) do
  local consumer = {}
  for place = 1, #facts, 2 do
    consumer[facts[place]] = facts[place + 1]
  end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle > HOUR) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
return 1
