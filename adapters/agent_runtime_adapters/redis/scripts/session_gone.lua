-- Also of a session that is damaged.
local function remove(session)
  local keys = session.keys
  redis.call('UNLINK', keys.s, keys.m, keys.c)
  redis.call('ZREM', o, keys.id)
  if session.number and session.agent then redis.call('ZREM', x, member(session)) end
end
