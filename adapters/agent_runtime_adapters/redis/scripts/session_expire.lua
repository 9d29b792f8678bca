#!lua flags=allow-oom
-- KEYS are without owner and id. Keys of a session that was made again belong to that one.
local told = redis.call('ZRANGE', x, '-inf', text(now), 'BYSCORE', 'LIMIT', 0, ARGV[4])
for _, item in ipairs(told) do
  local number, agent, whose, first = string.match(item, '^(%d+):(%d+):(%d+):()')
  first = first + agent
  local name = string.sub(item, first)
  local index, id = o .. string.sub(name, 1, whose), string.sub(name, whose + 1)
  redis.call('ZREM', x, item)
  local there = redis.call('HGET', here.s .. name, 'number')
  if not there or there == number then
    redis.call('UNLINK', here.s .. name, here.m .. name, here.c .. name)
    redis.call('ZREM', index, id)
  end
end
return told
