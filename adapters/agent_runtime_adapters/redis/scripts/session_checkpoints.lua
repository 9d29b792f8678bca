#!lua flags=no-writes
-- Names and checkpoints, the last first.
local session = find(here)
if not session then return {} end
local name, last = ARGV[4], ARGV[5]
local names = name ~= '' and {name} or last ~= '0' and redis.call('ZREVRANGE', here.c, 0, (last == '' and 0 or last) - 1) or {}
local items = {}
for _, each in ipairs(names) do
  local item = redis.call('HGET', here.s, 'c:' .. each)
  if item then
    items[#items + 1] = each
    items[#items + 1] = item
  end
end
return items
