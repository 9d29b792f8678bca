-- A number that the shard has not given before.
local function following()
  return tostring(redis.call('INCR', KEYS[6]))
end

local function lend(session, seconds)
  session.lent = text(now + seconds)
  session.expires = text(math.max(tonumber(session.expires), now + seconds))
end

local function give_back(session)
  redis.call('HDEL', session.keys.s, 'holder', 'lent')
  session.holder, session.lent = false, false
end
