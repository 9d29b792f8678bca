#!lua flags=allow-oom
-- KEYS: the log, its events, the index of the owner's logs.
local can_be_read, log = pcall(find, KEYS[1])
if can_be_read and not log then
  return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
return 1
