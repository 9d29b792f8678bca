#!lua flags=no-writes
local expires, count, number = unpack(redis.call('HMGET', KEYS[1], 'expires', 'count', 'number'))
return expires and tonumber(expires) > now and {count, number}
