-- Why there is no room for one more; nil where there is.
local function no_room(max_sessions, max_sessions_per_user)
  local after = '(' .. text(now)
  if max_sessions ~= '' and redis.call('ZCOUNT', x, after, '+inf') >= tonumber(max_sessions) then return 'full' end
  if max_sessions_per_user ~= '' and redis.call('ZCOUNT', o, after, '+inf') >= tonumber(max_sessions_per_user) then
    return 'owner_full'
  end
end

-- A session in the place of one whose time is up, which `expire` still has to tell of. It is to be saved.
local function made(keys, agent, data, closed, operation, ttl)
  redis.call('UNLINK', keys.s, keys.m, keys.c)
  redis.call('ZREMRANGEBYSCORE', o, '-inf', text(now))
  redis.call('HSET', keys.s, 'data', data)
  local session = {
    keys = keys, was = {}, agent = agent, closed = closed, version = '1', count = '0', created = text(now), fence = '0',
    checkpoints = '0', runs = '0', open = '', number = following(), operation = operation, kept = '0',
  }
  touch(session, ttl)
  return session
end
