#!lua flags=no-writes
-- Of each run its name, and what is kept of it; the oldest first.
local session = find(here)
if not session then return {} end
local runs = {}
for name in string.gmatch(session.open, '[^,]+') do
  runs[#runs + 1] = name
  runs[#runs + 1] = redis.call('HGET', here.s, 'r:' .. name)
end
return runs
