local function remove(session)
  local keys = session.keys
  redis.call('UNLINK', keys.s, keys.m, keys.c)
  redis.call('ZREM', o, keys.id)
  redis.call('ZREM', x, member(session))
end
