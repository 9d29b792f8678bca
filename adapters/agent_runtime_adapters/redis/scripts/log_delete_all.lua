#!lua flags=allow-oom
-- KEYS: the index of the owner's logs. ARGV[2] and ARGV[3]: how the keys of logs begin, and those of their events.
return forget_all(KEYS[1], function(stream)
  return redis.call('UNLINK', ARGV[2] .. stream, ARGV[3] .. stream) > 0
end)
