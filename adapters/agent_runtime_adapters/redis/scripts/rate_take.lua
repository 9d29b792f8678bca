#!lua
-- KEYS: the cells. ARGV[2]: of each its rate, period, burst, ceiling and cost, a double each; what `admit` does is done here.
local LIMIT, SIZE = '>ddddd', 40

local cells = redis.call('MGET', unpack(KEYS))
local levels, ahead, waits, longest = {}, {}, {}, 0
for place, cell in ipairs(cells) do
  local rate, period, burst, ceiling, cost = struct.unpack(LIMIT, ARGV[2], (place - 1) * SIZE + 1)
  local level, is_ahead = drained(cell, rate, period)
  local wait = 0
  if level + cost > ceiling then
    wait = (level + cost - burst) * period / rate
  end
  levels[place], ahead[place], waits[place], longest = level, is_ahead, wait, math.max(longest, wait)
end

local answer = {}
for place, key in ipairs(KEYS) do
  local rate, period, burst, _, cost = struct.unpack(LIMIT, ARGV[2], (place - 1) * SIZE + 1)
  local level = levels[place]
  if longest == 0 then
    level = level + cost
  end
  if longest == 0 or ahead[place] then
    store(key, level, rate, period)
  end
  answer[place] = struct.pack('>ddd', math.max(0, burst - level), waits[place], level * period / rate)
end
return table.concat(answer)
