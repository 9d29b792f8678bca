#!lua
-- KEYS: the value, the index of the owner's keys, the last version of this shard.
local ttl, member, condition, operation, body = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if condition ~= 'any' then
  local version, writer = find(KEYS[1])
  if version and writer == operation then
    return version
  elseif condition == 'none' then
    if version then
      return 'exists'
    end
  elseif not version then
    return 'missing'
  elseif version ~= tonumber(condition) then
    return 'changed'
  end
end

-- At least the time in microseconds: where the last versions were lost, in a fail-over for instance, none comes again.
local time = redis.call('TIME')
local version = math.max((redis.call('GET', KEYS[3]) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[3], text(version))

redis.call('SET', KEYS[1], struct.pack('>ddc16', version, now + ttl, operation) .. body)
keep(KEYS[1], ttl)
index(KEYS[2], member, ttl)
return version
