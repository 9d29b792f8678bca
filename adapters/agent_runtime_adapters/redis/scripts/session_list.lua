#!lua flags=no-writes
local sessions = {}
for _, id in ipairs(all()) do
  local session = find(keys_of(id))
  if session then sessions[#sessions + 1] = stored(session) end
end
return sessions
