#!lua flags=allow-oom
local session = find(here)
if not session then return 0 end
if is_held(session) then return 'held' end
if not forget(session, ARGV[4]) then return 0 end
redis.call('HSET', here.s, 'open', session.open)
return 1
