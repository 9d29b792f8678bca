#!lua flags=allow-oom
local gone = 0
for _, id in ipairs(all()) do
  local session = lookup(keys_of(id))
  if session and (ARGV[4] == '' or session.agent == ARGV[4]) then
    remove(session)
    gone = gone + 1
  end
end
return gone
