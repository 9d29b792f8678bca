#!lua flags=no-writes
return redis.call('ZCOUNT', o, '(' .. text(now), '+inf')
