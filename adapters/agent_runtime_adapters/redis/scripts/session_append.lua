#!lua
local number, batch, expected, ttl, operation, holder, fence = unpack(ARGV, 4, 10)
local session, known = find(here, 'a:' .. operation)
if not session then return 'missing' end
if known then return tonumber(known) end
if session.closed == '1' then return 'closed' end
if holder ~= '' then
  if not is_leased(session, holder, fence) then return 'fenced' end
elseif is_held(session) then
  return 'held'
end
if expected ~= '' and expected ~= session.count then return 'changed' end
add(session, number, batch)
touch(session, ttl)
save(session, 'a:' .. operation, session.count)
return tonumber(session.count)
