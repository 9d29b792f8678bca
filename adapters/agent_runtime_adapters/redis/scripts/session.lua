-- Sessions. One has four keys, all kept until the same moment: `s`, a hash of its fields; `m`, a list of its appends, each the
-- place of its first message (8 bytes), how many it has (4) and its data; `b`, a hash of what belongs to it, by one letter and
-- a name: `a` append operations, `w` write operations, `c` checkpoints, `r` runs, `e` entries of runs; and `c`, the
-- checkpoints' order. `o` has all of an owner's sessions and `x` all of the shard's, by when their time is up; `n` counts.
-- KEYS: s, m, b, c, o, x, n. ARGV: the time, owner, session id, and what the operation takes.

local owner = ARGV[2]
local o, x, n = KEYS[5], KEYS[6], KEYS[7]
local here = {id = ARGV[3], s = KEYS[1], m = KEYS[2], b = KEYS[3], c = KEYS[4]}

local NAMES = {
  'expires', 'agent', 'closed', 'version', 'count', 'created', 'updated', 'holder', 'fence', 'lent', 'checkpoints', 'runs',
  'open', 'number', 'operation', 'kept',
}
local SLACK = 1.25 -- how much longer the keys are kept than their session lives: few writes have to prolong them

-- The session of these keys, its numbers as text; nil where there is none, or its time is up.
local function find(keys)
  local values = redis.call('HMGET', keys.s, unpack(NAMES))
  if not values[1] or tonumber(values[1]) <= now then return nil end
  local session = {keys = keys, was = values}
  for i = 1, #NAMES do session[NAMES[i]] = values[i] end
  return session
end

local function is_held(session)
  return session.holder and tonumber(session.lent) > now
end

-- Whether the lease holds, by which it was given.
local function is_leased(session, holder, fence)
  return session.holder == holder and session.fence == fence
end

-- What the caller gets.
local function stored(session)
  return {
    session.keys.id, session.agent, redis.call('HGET', session.keys.s, 'data'), session.closed, session.version, session.count,
    session.created, session.updated, session.expires, is_held(session) and session.holder or false,
  }
end

-- What `x` has of it: nothing else has these bytes, and `expire` reads from them whose it was.
local function member(session)
  local agent = session.agent
  return session.number .. ':' .. #agent .. ':' .. #owner .. ':' .. agent .. owner .. session.keys.id
end

local function touch(session, ttl)
  session.updated = text(now)
  session.expires = text(math.max(now + ttl, session.lent and tonumber(session.lent) or 0))
end

local function lend(session, seconds)
  session.lent = text(now + seconds)
  session.expires = text(math.max(tonumber(session.expires), now + seconds))
end

local function give_back(session)
  redis.call('HDEL', session.keys.s, 'holder', 'lent')
  session.holder, session.lent = false, false
end

-- Keep all keys as long as the session lives. One that is made later is kept by who makes it.
local function prolong(session)
  local seconds = (session.expires - now) * SLACK
  session.kept = text(now + seconds)
  for _, key in ipairs({session.keys.s, session.keys.m, session.keys.b, session.keys.c}) do keep(key, seconds) end
  if redis.call('PTTL', o) < seconds * 1000 then keep(o, seconds) end
end

-- Keep a key as long as the others. A new session's are kept by `save`, and must not have a time before: the least one there
-- is, a millisecond, may be over in the middle of the script.
local function keep_too(session, key)
  if session.kept ~= '0' then keep(key, session.kept - now) end
end

-- Write what has changed.
local function save(session)
  local keys, was, changes = session.keys, session.was, {}
  redis.call('ZADD', o, session.expires, keys.id)
  redis.call('ZADD', x, session.expires, member(session))
  if tonumber(session.expires) > tonumber(session.kept) then prolong(session) end
  for i = 1, #NAMES do
    local value = session[NAMES[i]]
    if value and value ~= was[i] then
      changes[#changes + 1] = NAMES[i]
      changes[#changes + 1] = value
    end
  end
  if #changes > 0 then redis.call('HSET', keys.s, unpack(changes)) end
end

local function remove(session)
  local keys = session.keys
  redis.call('UNLINK', keys.s, keys.m, keys.b, keys.c)
  redis.call('ZREM', o, keys.id)
  redis.call('ZREM', x, member(session))
end

-- A number that the shard has not given before.
local function following()
  return tostring(redis.call('INCR', n))
end

-- Messages

-- Add a batch, and return the new message count. Made by an `operation`, it is known by it.
local function add(session, number, data, operation)
  local parts = redis.call('RPUSH', session.keys.m, struct.pack('>I8I4', session.count, number) .. data)
  if parts == 1 then keep_too(session, session.keys.m) end
  session.count = tostring(session.count + number)
  if operation then redis.call('HSET', session.keys.b, 'a' .. operation, session.count) end
  return tonumber(session.count)
end

-- How many messages there were when `operation` had added its own; nil when it has not.
local function count_of(session, operation)
  return tonumber(redis.call('HGET', session.keys.b, 'a' .. operation) or nil)
end

-- Checkpoints: sequence, message count, time, data.

local function put(session, name, data, count)
  session.checkpoints = tostring(session.checkpoints + 1)
  local item = struct.pack('>I8I8d', session.checkpoints, count, now) .. data
  redis.call('HSET', session.keys.b, 'c' .. name, item)
  redis.call('ZADD', session.keys.c, session.checkpoints, name)
  keep_too(session, session.keys.c)
  return item
end

-- New sessions

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
  redis.call('UNLINK', keys.s, keys.m, keys.b, keys.c)
  redis.call('ZREMRANGEBYSCORE', o, '-inf', text(now))
  redis.call('HSET', keys.s, 'data', data)
  redis.call('HSET', keys.b, '', '') -- so that it is there from now on
  local session = {
    keys = keys, was = {}, agent = agent, closed = closed, version = '1', count = '0', created = text(now), fence = '0',
    checkpoints = '0', runs = '0', open = '', number = following(), operation = operation, kept = '0',
  }
  touch(session, ttl)
  return session
end
