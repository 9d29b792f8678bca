-- What an owner has: the names, and until when each is there.

local OLD_AT_ONCE = 100

-- Note that `member` is there for so many seconds, and forget some whose time is up.
local function index(key, member, seconds)
  redis.call('ZADD', key, text(now + seconds), member)
  local old = redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'LIMIT', 0, OLD_AT_ONCE)
  if #old > 0 then
    redis.call('ZREM', key, unpack(old))
  end
  if redis.call('PTTL', key) < seconds * 1000 then
    keep(key, seconds)
  end
end

-- Forget all, with `forget(member)` for each that gives whether it was there; how many were there.
local function forget_all(key, forget)
  local count = 0
  local found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for place = 1, #found, 2 do
    if forget(found[place]) and tonumber(found[place + 1]) > now then
      count = count + 1
    end
  end
  redis.call('UNLINK', key)
  return count
end
