#!lua
local name, data, ttl, holder, fence = unpack(ARGV, 4, 8)
local session = find(here)
if not session then return 'missing' end
local there = redis.call('HGET', here.s, 'c:' .. name)
if there and string.sub(there, 25) == data then return {there} end
if session.closed == '1' then return 'closed' end
if holder ~= '' and not is_leased(session, holder, fence) then return 'fenced' end
if there then return 'exists' end
local item = put(session, name, data, session.count)
touch(session, ttl)
save(session)
return {item}
