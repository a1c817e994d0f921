-- Extends living leases; revives none. KEYS: locks. ARGV: for each nonce, ttl_us. Answers 1 or 0 for each.
local function renew(key, at)
  local got = redis.call('HMGET', key, 'h', 'm', 'n')
  local held = holder(got[1])
  if not held or held.nonce ~= ARGV[at] or held.till <= now then
    return 0
  end
  local till = now + tonumber(ARGV[at + 1])
  -- First, and for enrolled keys as well: it needs no memory, and after a first write a full store refuses no second one.
  keep(key, got[2], got[3], till)
  redis.call('HSET', key, 'h', held.nonce .. ' ' .. text(till) .. ' ' .. held.rest)
  return 1
end

local answers = {text(now)}
for i = 1, #KEYS do
  answers[i + 1] = each(renew, KEYS[i], i * 2 - 1)
end
return answers
