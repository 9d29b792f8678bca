-- A log: under one key the first number that is kept, the last number, the bytes that are kept and when it expires (a double
-- each), whether it is closed (a byte), and the digest of the last append's operation (16 bytes); under another its events,
-- a list, each with 4 bytes in front that only the caller reads.
local LOG, SEAL = '>ddddBc16', 4

local function is_count(number, least)
  return number >= least and number < 2 ^ 53 and number % 1 == 0
end

local function find(key)
  local found = redis.call('GET', key)
  if not found then
    return nil
  elseif #found ~= struct.size(LOG) then
    error({ err = 'DAMAGED an event log' })
  end
  local log = {}
  log.first, log.last, log.size, log.expires_at, log.closed, log.operation = struct.unpack(LOG, found)
  if not (is_count(log.first, 1) and is_count(log.last, log.first - 1) and is_count(log.size, 0)) then
    error({ err = 'DAMAGED an event log' })
  end
  if log.expires_at <= now then
    return nil
  end
  return log
end
