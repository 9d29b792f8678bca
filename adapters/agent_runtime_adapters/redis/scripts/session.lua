-- Sessions. One has three keys, all kept until the same moment: `s`, a hash of its fields, and of what belongs to it by a letter
-- and a name: `a` append operations, `w` write operations (`v` the order of them), `c` checkpoints, `r` runs, `e` entries of
-- runs; `m`, a list of its appends, each the place of its first message (8 bytes), how many it has (4) and its data; and `c`,
-- the order of its checkpoints. `o` has all of an owner's sessions and `x` all of the shard's, by when their time is up; `n`
-- counts. KEYS: s, m, c, o, x, n. ARGV: the time, owner, session id, and what the operation takes.

local owner = ARGV[2]
local o, x = KEYS[4], KEYS[5]
local here = {id = ARGV[3], s = KEYS[1], m = KEYS[2], c = KEYS[3]}

local NAMES = {
  'expires', 'agent', 'closed', 'version', 'count', 'created', 'updated', 'holder', 'fence', 'lent', 'checkpoints', 'runs',
  'open', 'number', 'operation', 'kept',
}
local LAST = #NAMES
local NUMBERS = {'expires', 'version', 'count', 'created', 'updated', 'checkpoints', 'runs', 'number', 'kept', 'fence'}
local SLACK = 1.25 -- how much longer the keys are kept than their session lives: few writes have to prolong them

local function damaged()
  error({err = 'DAMAGED a session'})
end

-- The session of these keys, its numbers as text, damaged or not; nil where there is none, or its time is up. And what
-- `field` has.
local function lookup(keys, field)
  NAMES[LAST + 1] = field
  local values = redis.call('HMGET', keys.s, unpack(NAMES))
  NAMES[LAST + 1] = nil
  if not values[1] or (tonumber(values[1]) or now + 1) <= now then return nil end
  local session = {keys = keys, was = values}
  for i = 1, LAST do session[NAMES[i]] = values[i] end
  return session, values[LAST + 1]
end

-- The same of one that is as it was written.
local function find(keys, field)
  local session, content = lookup(keys, field)
  if not session then return nil end
  for i = 1, #NUMBERS do
    if not tonumber(session[NUMBERS[i]]) then damaged() end
  end
  if not (session.agent and session.open and (tonumber(session.lent) or not session.holder)) then damaged() end
  return session, content
end

local function is_held(session)
  return session.holder and tonumber(session.lent) > now
end

-- Whether the lease holds, by which it was given.
local function is_leased(session, holder, fence)
  return session.holder == holder and session.fence == fence
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

-- Keep all keys as long as the session lives. One that is made later is kept by who makes it.
local function prolong(session)
  local seconds = (session.expires - now) * SLACK
  session.kept = text(now + seconds)
  for _, key in ipairs({session.keys.s, session.keys.m, session.keys.c}) do keep(key, seconds) end
  if redis.call('PTTL', o) < seconds * 1000 then keep(o, seconds) end
end

-- Keep a key as long as the others. A new session's are kept by `save`, and must not have a time before: the least one there
-- is, a millisecond, may be over in the middle of the script.
local function keep_too(session, key)
  if session.kept ~= '0' then keep(key, session.kept - now) end
end

-- Write what has changed, and `field` where there is one.
local function save(session, field, content)
  local keys, was, changes = session.keys, session.was, {field, content}
  redis.call('ZADD', o, session.expires, keys.id)
  redis.call('ZADD', x, session.expires, member(session))
  if tonumber(session.expires) > tonumber(session.kept) then prolong(session) end
  for i = 1, LAST do
    local value = session[NAMES[i]]
    if value and value ~= was[i] then
      changes[#changes + 1] = NAMES[i]
      changes[#changes + 1] = value
    end
  end
  if #changes > 0 then redis.call('HSET', keys.s, unpack(changes)) end
end
