#!lua
local agent, data, closed, expected, ttl, operation, holder, fence, kept = unpack(ARGV, 4, 12)
local session = find(here)
if not session then return 'missing' end
if redis.call('HEXISTS', here.s, 'w:' .. operation) == 1 then return stored(session) end
if holder ~= '' and not is_leased(session, holder, fence) then return 'fenced' end
if session.version ~= expected then return 'changed' end
redis.call('ZREM', x, member(session))
redis.call('HSET', here.s, 'data', data)
session.agent, session.closed, session.version = agent, closed, tostring(session.version + 1)
local slot = 'v:' .. session.version % kept
local oldest = redis.call('HGET', here.s, slot)
if oldest then redis.call('HDEL', here.s, 'w:' .. oldest) end
redis.call('HSET', here.s, slot, operation, 'w:' .. operation, '')
touch(session, ttl)
save(session)
return stored(session)
