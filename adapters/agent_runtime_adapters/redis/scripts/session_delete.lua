#!lua flags=allow-oom
local session = lookup(here)
if not session then return 0 end
remove(session)
return 1
