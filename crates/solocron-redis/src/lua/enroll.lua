-- Makes locks take claims, and reads them. KEYS: locks. ARGV: for each fingerprint, name. Answers with C (created) or K, and the record.
local function enroll(key, ask)
  local fingerprint = sub(ask, 1, 8)
  local name, body, node, waited, fence, till, since, tick, attempt, holder, released, expires = load(key, sub(ask, 9))
  if not name then
    return body
  end
  if body == '' then
    body = string.rep('\0', STRINGS - 1)
  end
  local created = string.byte(body, 53) == 0
  if created then
    body = sub(body, 1, 40) .. pack('<dI4BB', floor_ms(now), 0, 2, 0) .. sub(body, 55)
  end
  if created or sub(body, 17, 24) ~= fingerprint then
    body = sub(body, 1, 16) .. fingerprint .. pack('<d', floor_ms(now)) .. sub(body, 33)
    return (created and 'C' or 'K') .. save(key, false, name, body, node, waited, fence, till, since, tick, attempt, holder, released, expires)
  end
  return 'K' .. call('GET', key)
end

local answers = {pack('<d', now)}
for i = 1, #KEYS do
  answers[i + 1] = each(enroll, KEYS[i], ARGV[i])
end
return table.concat(answers)
