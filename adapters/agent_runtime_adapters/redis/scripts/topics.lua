-- A topic is a stream whose entries are numbered from 1, without a hole: the entry of message n is n-0, and says `i`, the
-- message's id, and `d`, its data. Each group of the topic has a set of the ids that it knows, by when they were handled, and
-- a stream of dead letters.

-- The number of the last message, and of the first that is kept.
local function ends(stream)
  if redis.call('EXISTS', stream) == 0 then
    return 0, 1
  end
  local facts = redis.call('XINFO', 'STREAM', stream)
  local last, length
  for place = 1, #facts, 2 do
    if facts[place] == 'last-generated-id' then
      last = tonumber(string.match(facts[place + 1], '^%d+'))
    elseif facts[place] == 'length' then
      length = facts[place + 1]
    end
  end
  return last, last - length + 1
end

-- What the server knows of a message that this consumer has, and `nil` where it has it no more.
local function held(stream, group, consumer, place)
  local found = redis.pcall('XPENDING', stream, group, place, place, 1, consumer)
  return not found.err and found[1] or nil
end

local function bury(stream, dead, group, letter, max_dead_letters)
  if redis.call('XACK', stream, group, letter.place) == 1 then
    redis.call('XADD', dead, 'MAXLEN', '=', max_dead_letters, '*', 'p', letter.place, 'i', letter.id, 'd', letter.data,
      'n', letter.attempt, 'r', letter.reason)
  end
end
