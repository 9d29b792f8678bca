#!lua flags=no-writes
local found = redis.call('GET', KEYS[1])
if found and struct.unpack('>d', found, 9) <= now then
  return false
end
return found
