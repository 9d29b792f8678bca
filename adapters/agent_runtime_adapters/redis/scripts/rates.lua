-- A cell under its key: the level in units, and when it was that (a double each); see `RateCell`.

-- The level now, by `rate` units in `period` seconds. Where the clock stepped back nothing drains: then it `is_ahead`.
local function drained(cell, rate, period)
  if not cell then
    return 0, false
  end
  if #cell ~= 16 then
    error({ err = 'DAMAGED a rate limit' })
  end
  local level, at = struct.unpack('>dd', cell)
  if now > at then
    return math.max(0, level - (now - at) * rate / period), false
  end
  return level, at > now
end

-- Keep the cell until its level is 0 again.
local function store(key, level, rate, period)
  if level > 0 then
    local milliseconds = math.min(math.max(math.ceil(level * period / rate * 1000), 1), 1e15)
    redis.call('SET', key, struct.pack('>dd', level, now), 'PX', string.format('%.0f', milliseconds))
  else
    redis.call('DEL', key)
  end
end
