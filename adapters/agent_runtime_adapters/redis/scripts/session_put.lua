-- Checkpoints: sequence, message count, time, data.

local function put(session, name, data, count)
  session.checkpoints = tostring(session.checkpoints + 1)
  local item = struct.pack('>I8I8d', session.checkpoints, count, now) .. data
  redis.call('HSET', session.keys.s, 'c:' .. name, item)
  redis.call('ZADD', session.keys.c, session.checkpoints, name)
  keep_too(session, session.keys.c)
  return item
end
