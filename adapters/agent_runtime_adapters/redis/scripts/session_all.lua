-- The keys of the owner's session `id`, where `here` is without one.
local function keys_of(id)
  return {id = id, s = here.s .. id, m = here.m .. id, c = here.c .. id}
end

-- The ids of the owner's sessions.
local function all()
  return redis.call('ZRANGE', o, '(' .. text(now), '+inf', 'BYSCORE')
end
