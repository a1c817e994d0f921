-- One atomic attempt for each lock. KEYS: epoch, locks. ARGV: run, known, candidate; then for each lock
-- name, nonce, node, ttl_us, longest_us, tick|'', after|'', max attempts (0: at most once).
local id, lost = epoch(KEYS[1], ARGV[1], ARGV[2], ARGV[3], false)

local function refuses(x, nonce)
  if x then
    for refused, till in string.gmatch(x, '(%x+) (%d+)') do
      if refused == nonce and tonumber(till) > now then
        return true
      end
    end
  end
  return false
end

local function acquire(key, at)
  local name, nonce = ARGV[at], ARGV[at + 1]
  local got, wrong = load(key, name, 'f', 'h', 'r', 'x', 'm', 'p', 's', 'n')
  if wrong then
    return wrong
  end
  local f, h, r, x, m, p, s, n = got[3], got[4], got[5], got[6], got[7], got[8], got[9], got[10]
  if r == nonce or refuses(x, nonce) then
    return {'refused'}
  end
  local held = holder(h)
  local living = held and held.till > now
  if held and held.nonce == nonce then
    if not living then
      return {'refused'}
    end
    local attempt, tick = string.match(held.rest, '^%d+ (%d+) (%S+)')
    return {'won', f, attempt, tick ~= '-' and p or '', s or '', n or ''}
  end
  local tick, after, max = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local last, floor
  if tick then
    if not m then
      return {'unknown'}
    end
    if tick * 1000 > now then
      return {'early'}
    end
    last = claim(m)
    local again = not last.done and last.attempts < max
    if tick < last.mark or (tick == last.mark and not again) then
      return {'stale', m, living and h or ''}
    end
    -- What was claimed before a loss of memory is not known any more: at most once means never again.
    floor = (lost and max == 0) and floor_ms(lost) or last.mark
    if tick <= floor and tick ~= last.mark then
      return {'stale', claim_text(floor, true, 0, '-'), living and h or ''}
    end
  end
  if living then
    return {'busy', h}
  end
  if tick and tick ~= last.mark then
    local unfinished = not last.done and last.attempts > 0 and last.attempts < max
    local mark = math.max(last.mark, floor)
    if unfinished or (after and mark < after) then
      return {'behind', text(unfinished and last.mark or mark), unfinished and '1' or '0'}
    end
  end
  if lost and now < lost + tonumber(ARGV[at + 4]) then
    return {'recovering', text(lost + tonumber(ARGV[at + 4]) - now)}
  end
  local fence = math.max((tonumber(f) or 0) + 1, now)
  local till = now + tonumber(ARGV[at + 3])
  local node = ARGV[at + 2]
  local attempt, claimed = 1, '-'
  local fields = {'f', text(fence), 'h', ''}
  local previous = ''
  if new(got) then
    fields[5], fields[6], fields[7], fields[8] = 'v', VERSION, 'k', name
  end
  if tick then
    attempt = tick == last.mark and last.attempts + 1 or 1
    claimed, previous = text(tick), m
    fields[5], fields[6] = 'm', claim_text(tick, false, attempt, '=' .. node)
    fields[7], fields[8], fields[9], fields[10] = 'p', m, 'q', nonce
  end
  fields[4] = table.concat({nonce, text(till), text(now), text(attempt), claimed, node}, ' ')
  -- First: what needs memory is refused by a full server only before anything else was written.
  redis.call('HSET', key, unpack(fields))
  if not (m or n) then
    local kept, why = pcall(keep, key, m, n, till)
    if not kept then
      -- A user without the right to do this is told so, and has been granted nothing.
      redis.call('HDEL', key, 'h')
      error(why, 0)
    end
  end
  return {'won', text(fence), text(attempt), previous, s or '', n or ''}
end

local answers = {id, text(now), lost and text(lost) or ''}
for i = 2, #KEYS do
  answers[i + 2] = each(acquire, KEYS[i], 4 + (i - 2) * 8)
end
return answers
