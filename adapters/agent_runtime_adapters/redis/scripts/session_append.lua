#!lua
local number, batch, expected, ttl, operation, holder, fence = unpack(ARGV, 4, 10)
local session = find(here)
if not session then return 'missing' end
local count = count_of(session, operation)
if count then return count end
if session.closed == '1' then return 'closed' end
if holder ~= '' then
  if not is_leased(session, holder, fence) then return 'fenced' end
elseif is_held(session) then
  return 'held'
end
if expected ~= '' and expected ~= session.count then return 'changed' end
count = add(session, number, batch, operation)
touch(session, ttl)
save(session)
return count
