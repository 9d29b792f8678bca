#!lua flags=allow-oom
local session = find(here)
if not session then return 0 end
remove(session)
return 1
