-- Add a batch. Who makes it also writes the count into the field `a` of its operation.
local function add(session, number, data)
  local parts = redis.call('RPUSH', session.keys.m, struct.pack('>I8I4', session.count, number) .. data)
  if parts == 1 then keep_too(session, session.keys.m) end
  session.count = tostring(session.count + number)
end
