-- What time it is, in Unix seconds: the caller's clock (ARGV[1]), or the server's where that is empty.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end

-- A number as text that gives the same number again.
local function text(number)
  return string.format('%.17g', number)
end

-- Have the server drop `key` in so many seconds. What is there is decided by the times that are stored, not by this.
local function keep(key, seconds)
  redis.call('PEXPIRE', key, string.format('%.0f', math.min(math.max(math.ceil(seconds * 1000), 1), 1e15)))
end
