#!lua
local name, ttl, holder, fence, number, batch = unpack(ARGV, 4, 9)
local session, known = find(here, 'a:' .. holder)
if not session then return 'missing' end
if not is_leased(session, holder, fence) then
  if not known and (number ~= '0' or run_of(session, name)) then return 'fenced' end
  return tonumber(known or session.count)
end
local adds = not known and number ~= '0'
if adds and session.closed == '1' then return 'closed' end
if adds then add(session, number, batch) end
forget(session, name)
give_back(session)
touch(session, ttl)
if adds then save(session, 'a:' .. holder, session.count) else save(session) end
return tonumber(known or session.count)
