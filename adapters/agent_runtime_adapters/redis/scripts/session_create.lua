#!lua
local agent, data, closed, operation, ttl, max_sessions, max_sessions_per_user, number, batch = unpack(ARGV, 4, 12)
local there = find(here)
if there then
  if there.operation ~= operation then return 'exists' end
  return stored(there)
end
local full = no_room(max_sessions, max_sessions_per_user)
if full then return full end
local session = made(here, agent, data, closed, operation, ttl)
if number ~= '0' then add(session, number, batch) end
for i = 13, #ARGV, 3 do put(session, ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
save(session)
return stored(session)
