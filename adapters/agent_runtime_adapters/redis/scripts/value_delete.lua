#!lua flags=allow-oom
-- KEYS: the value, the index of the owner's keys.
local member, expected = ARGV[2], tonumber(ARGV[3])
local version = find(KEYS[1])
if not version or (expected and version ~= expected) then
  return 0
end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], member)
return 1
