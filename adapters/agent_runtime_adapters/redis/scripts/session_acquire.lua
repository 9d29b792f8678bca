#!lua
local holder, seconds, ttl, kept, entry = unpack(ARGV, 4, 8)
local session = find(here)
if not session then return 'missing' end
local run = entry and run_of(session, holder)
local begins = entry and not (run and entry_of(session, holder, 1) == entry)
local again = session.holder == holder
if session.closed == '1' and (begins or not again) then return 'closed' end
if is_held(session) and not again then return 'held' end
if begins and run then return 'changed' end
if not again then session.holder, session.fence = holder, following() end
lend(session, seconds)
if begins then record(session, holder, entry, tonumber(kept)) end
if begins or not again then touch(session, ttl) end
save(session)
return {tonumber(session.fence), stored(session)}
