#!lua flags=no-writes
-- KEYS: the cells.
return { text(now), redis.call('MGET', unpack(KEYS)) }
