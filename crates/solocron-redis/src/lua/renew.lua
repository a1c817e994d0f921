-- Extends living leases; revives none. KEYS: locks. ARGV: for each nonce, ttl_us. Answers Y or N for each.
local function renew(key, ask)
  local nonce, ttl = unpack('<c16d', ask)
  local name, body, node, waited, fence, till, since, tick, attempt, holder, released, expires = load(key)
  if not name then
    return body
  end
  if holder ~= nonce or till <= now then
    return 'N'
  end
  save_anyway(key, false, name, body, node, waited, fence, now + ttl, since, tick, attempt, holder, released, expires)
  return 'Y'
end

local answers = {pack('<d', now)}
for i = 1, #KEYS do
  answers[i + 1] = each(renew, KEYS[i], ARGV[i])
end
return table.concat(answers)
