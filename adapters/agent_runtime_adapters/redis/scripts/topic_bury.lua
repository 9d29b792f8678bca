#!lua flags=allow-oom
-- KEYS: the topic, the dead letters of the group. ARGV: the group, how many of them are kept, and those of the letter.
local letter = { place = ARGV[3], id = ARGV[4], data = ARGV[5], attempt = ARGV[6], reason = ARGV[7] }
bury(KEYS[1], KEYS[2], ARGV[1], letter, ARGV[2])
return 1
