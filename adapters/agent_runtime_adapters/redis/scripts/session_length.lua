#!lua flags=no-writes
local expires, count, number = unpack(redis.call('HMGET', KEYS[1], 'expires', 'count', 'number'))
if not expires then return false end
if not (tonumber(expires) and tonumber(count) and number) then error({err = 'DAMAGED a session'}) end
return tonumber(expires) > now and {count, number}
