#!lua flags=no-writes
local found = redis.call('GET', KEYS[1])
if found and #found >= 16 and struct.unpack('>d', found, 9) <= now then
  return false
end
return found
