#!lua flags=allow-oom
-- KEYS: how the keys begin. ARGV: where to go on. Some are removed at a time, and the next place is returned, "0" at the end.
local found = redis.call('SCAN', ARGV[1], 'MATCH', KEYS[1] .. '*', 'COUNT', 1000)
if #found[2] > 0 then
  redis.call('UNLINK', unpack(found[2]))
end
return found[1]
