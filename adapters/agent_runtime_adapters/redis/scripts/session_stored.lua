-- What the caller gets.
local function stored(session)
  return {
    session.keys.id, session.agent, redis.call('HGET', session.keys.s, 'data'), session.closed, session.version, session.count,
    session.created, session.updated, session.expires, is_held(session) and session.holder or false,
  }
end
