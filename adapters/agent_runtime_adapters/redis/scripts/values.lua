-- A value under its key: its version and when it expires (a double each), the digest of the operation that wrote it (16
-- bytes), and what only the caller reads.
local function find(key)
  local head = redis.call('GETRANGE', key, 0, 31)
  if head == '' then
    return nil
  elseif #head < 32 then
    error({ err = 'DAMAGED a value' })
  end
  local version, expires_at, operation = struct.unpack('>ddc16', head)
  if expires_at <= now then
    return nil
  end
  return version, operation
end
