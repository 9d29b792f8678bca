#!lua flags=allow-oom
-- KEYS: the cells, maybe one more than once. ARGV[2]: of each its rate, period, what was used and what was charged, a double
-- each.
for place, key in ipairs(KEYS) do
  local rate, period, used, cost = struct.unpack('>dddd', ARGV[2], (place - 1) * 32 + 1)
  local level = drained(redis.call('GET', key), rate, period)
  store(key, level + used - cost, rate, period)
end
return 1
