#!lua flags=no-writes
-- KEYS: the topic. Also gives the number of the first message that is kept.
local _, first = ends(KEYS[1])
return { first, redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2]) }
