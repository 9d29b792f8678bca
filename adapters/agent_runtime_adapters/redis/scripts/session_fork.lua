#!lua
-- KEYS also has s, m and c of the new session.
local name, new, operation, ttl, max_sessions, max_sessions_per_user = unpack(ARGV, 4, 9)
local keys = {id = new, s = KEYS[7], m = KEYS[8], c = KEYS[9]}
local there = find(keys)
if there and there.operation == operation then return stored(there) end
local source = find(here)
local item = source and redis.call('HGET', here.s, 'c:' .. name)
if not item then return 'missing' end
if #item < 24 then damaged() end
local refusal = there and 'exists' or no_room(max_sessions, max_sessions_per_user)
if refusal then return refusal end
local session = made(keys, source.agent, redis.call('HGET', here.s, 'data') or damaged(), '0', operation, ttl)
local _, count = struct.unpack('>I8I8', item)
local place, left = 0, math.min(count, tonumber(source.count))
while left > 0 do
  for _, part in ipairs(redis.call('LRANGE', here.m, place, place + 99)) do
    local _, number = struct.unpack('>I8I4', part)
    -- A checkpoint made elsewhere may be in the middle of an append, of which then less is used.
    if left > 0 then add(session, math.min(number, left), string.sub(part, 13)) end
    left = left - number
  end
  place = place + 100
end
put(session, name, string.sub(item, 25), count)
save(session)
return stored(session)
