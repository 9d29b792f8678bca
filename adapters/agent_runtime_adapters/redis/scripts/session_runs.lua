-- The unfinished runs of a session, oldest first, are in its field `open`, each with a comma behind it. A run is its sequence,
-- how many entries it has, the message count when it began, and when it began and was added to.

local function run_of(session, name)
  local found = redis.call('HGET', session.keys.s, 'r:' .. name)
  if not found then return nil end
  local can_be_read, fields = pcall(cjson.decode, found)
  if not can_be_read or type(fields) ~= 'table' or #fields ~= 5 then damaged() end
  local sequence, entries, count, created, updated = unpack(fields)
  return {name = name, sequence = sequence, entries = entries, count = count, created = created, updated = updated}
end

local function entry_of(session, name, number)
  return redis.call('HGET', session.keys.s, 'e:' .. name .. ':' .. number)
end

-- Remove the run with its entries; whether there was one.
local function forget(session, name)
  local run = run_of(session, name)
  if not run then return false end
  for number = 1, run.entries do redis.call('HDEL', session.keys.s, 'e:' .. name .. ':' .. number) end
  redis.call('HDEL', session.keys.s, 'r:' .. name)
  local open = {}
  for other in string.gmatch(session.open, '[^,]+') do
    if other ~= name then open[#open + 1] = other .. ',' end
  end
  session.open = table.concat(open)
  return true
end

-- Add the run's next entry. A new run takes the place of the oldest, where there are `kept`.
local function record(session, name, entry, kept)
  local run = run_of(session, name)
  if not run then
    local open = {}
    for other in string.gmatch(session.open, '[^,]+') do open[#open + 1] = other end
    for i = 1, #open - kept + 1 do forget(session, open[i]) end
    session.runs = tostring(session.runs + 1)
    session.open = session.open .. name .. ','
    run = {sequence = session.runs, entries = 0, count = session.count, created = text(now)}
  end
  local number = run.entries + 1
  redis.call(
    'HSET', session.keys.s, 'e:' .. name .. ':' .. number, entry,
    'r:' .. name, cjson.encode({run.sequence, number, run.count, run.created, text(now)})
  )
end
