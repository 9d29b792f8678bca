#!lua
local holder, fence, seconds = unpack(ARGV, 4, 6)
local session = find(here)
if not session then return 'missing' end
if not is_leased(session, holder, fence) then return 'fenced' end
lend(session, seconds)
save(session)
return {tonumber(session.fence), stored(session)}
