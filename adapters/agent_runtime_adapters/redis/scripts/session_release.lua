#!lua flags=allow-oom
local session = find(here)
if not session or not is_leased(session, ARGV[4], ARGV[5]) then return 0 end
give_back(session)
return 1
