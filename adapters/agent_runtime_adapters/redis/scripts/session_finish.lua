#!lua
local name, ttl, holder, fence, number, batch = unpack(ARGV, 4, 9)
local session = find(here)
if not session then return 'missing' end
local count = count_of(session, holder)
if not is_leased(session, holder, fence) then
  if not count and (number ~= '0' or run_of(session, name)) then return 'fenced' end
  return count or tonumber(session.count)
end
if not count and number ~= '0' then
  if session.closed == '1' then return 'closed' end
  count = add(session, number, batch, holder)
end
forget(session, name)
give_back(session)
touch(session, ttl)
save(session)
return count or tonumber(session.count)
