-- Replaces the note of a lock if its version is still the expected one. KEYS: lock. ARGV: name, expected, next version, body.
local function note(key)
  local got, wrong = load(key, ARGV[1], 'n')
  if wrong then
    return wrong
  end
  local n = got[3] or '0 '
  if string.match(n, '^%d+') ~= ARGV[2] then
    return {'ok', n}
  end
  n = ARGV[3] .. ' ' .. ARGV[4]
  local fields = {'n', n}
  if new(got) then
    fields = {'n', n, 'v', VERSION, 'k', ARGV[1]}
  end
  redis.call('HSET', key, unpack(fields))
  redis.call('PERSIST', key)
  return {'ok', n}
end

return {text(now), each(note, KEYS[1])}
