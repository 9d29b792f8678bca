#!lua
local name, number, entry, ttl, holder, fence, kept = unpack(ARGV, 4, 10)
local session = find(here)
if not session then return 'missing' end
if entry_of(session, name, number) == entry then return tonumber(number) end
if not is_leased(session, holder, fence) then return 'fenced' end
local run = run_of(session, name)
if not run and number ~= '1' then return 'missing' end
if number == '1' and session.closed == '1' then return 'closed' end
if tonumber(number) ~= (run and run.entries or 0) + 1 then return 'changed' end
record(session, name, entry, tonumber(kept))
touch(session, ttl)
save(session)
return tonumber(number)
