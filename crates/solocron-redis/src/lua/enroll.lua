-- Makes locks take claims, and reads them. KEYS: locks. ARGV: for each name, fingerprint.
local function enroll(key, at)
  local name, fingerprint = ARGV[at], ARGV[at + 1]
  local got, wrong = load(key, name, 'm', 's', 'n')
  if wrong then
    return wrong
  end
  local m, s, n = got[3], got[4], got[5]
  local created = not m
  local fields = {}
  if new(got) then
    fields = {'v', VERSION, 'k', name}
  end
  if created then
    m = claim_text(floor_ms(now), true, 0, '-')
    fields[#fields + 1], fields[#fields + 2] = 'm', m
  end
  if created or string.match(s, '^%d+') ~= fingerprint then
    s = fingerprint .. ' ' .. text(floor_ms(now))
    fields[#fields + 1], fields[#fields + 2] = 's', s
    redis.call('HSET', key, unpack(fields))
    redis.call('PERSIST', key)
  end
  return {'ok', created and '1' or '0', m, s, n or ''}
end

local answers = {text(now)}
for i = 1, #KEYS do
  answers[i + 1] = each(enroll, KEYS[i], i * 2 - 1)
end
return answers
