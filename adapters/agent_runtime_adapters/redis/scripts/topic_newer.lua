#!lua flags=no-writes
-- KEYS: the topic. Whether there is a message after the one of this number.
return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1)
