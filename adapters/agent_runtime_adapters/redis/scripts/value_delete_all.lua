#!lua flags=allow-oom
-- KEYS: the index of the owner's keys. ARGV[2]: how the keys of the values begin.
return forget_all(KEYS[1], function(member)
  return redis.call('UNLINK', ARGV[2] .. member) == 1
end)
