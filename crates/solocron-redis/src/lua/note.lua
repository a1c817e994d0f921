-- Replaces the note of a lock if its version is still the expected one. KEYS: lock. ARGV: expected and next version, name, note. Answers
-- with K and the record.
local function note(key)
  local name, body, node, waited, fence, till, since, tick, attempt, holder, released, expires = load(key, ARGV[2])
  if not name then
    return body
  end
  if body == '' then
    body = string.rep('\0', STRINGS - 1)
  end
  if sub(body, 33, 40) == sub(ARGV[1], 1, 8) then
    local owners, owners_before, refused = string.byte(body, 54), string.byte(body, 68), unpack('<H', body, 69)
    local kept = STRINGS - 1 + owners + owners_before + 24 * refused
    body = sub(body, 1, 32) .. sub(ARGV[1], 9, 16) .. sub(body, 41, 70) .. pack('<H', #ARGV[3]) .. sub(body, STRINGS, kept) .. ARGV[3]
    return 'K' .. save(key, false, name, body, node, waited, fence, till, since, tick, attempt, holder, released, expires)
  end
  -- Nothing was written, and there may be no record.
  return 'K' .. pack(HEAD, MAGIC, waited, fence, till, since, tick, attempt, holder, released, expires, #name, #node) .. name .. body .. node
end

return pack('<d', now) .. each(note, KEYS[1])
