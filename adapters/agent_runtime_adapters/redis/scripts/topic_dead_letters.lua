#!lua flags=no-writes
-- KEYS: the dead letters of a group.
return redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
