-- Gives a lease back, or revokes a nonce. KEYS: lock, its waiters.
-- ARGV: name, nonce, done|skip|unfinished|undo, to, revoke (1 or 0), channels, slug.
local function release(key)
  local name, nonce, after, revoke = ARGV[1], ARGV[2], ARGV[3], ARGV[5] == '1'
  local got, wrong = load(key, name, 'h', 'r', 'x', 'm', 'p', 'q', 'n')
  if wrong then
    return wrong
  end
  local h, r, x, m, p, q, n = got[3], got[4], got[5], got[6], got[7], got[8], got[9]
  local held = holder(h)
  local owner = held and held.nonce == nonce
  local living = owner and held.till > now
  local fields, gone = {}, {}
  local function set(field, value)
    fields[#fields + 1], fields[#fields + 2] = field, value
  end

  if revoke then
    local refused = {}
    if x then
      for other, till in string.gmatch(x, '(%x+) (%d+)') do
        if other ~= nonce and tonumber(till) > now then
          refused[#refused + 1] = other .. ' ' .. till
        end
      end
    end
    if #refused >= MAX_REFUSED then
      return {'error', 'FULL too many acquisitions of this lock were revoked within a minute'}
    end
    refused[#refused + 1] = nonce .. ' ' .. text(now + REFUSED_FOR)
    set('x', table.concat(refused, ','))
    if new(got) then
      set('v', VERSION)
      set('k', name)
    end
  end

  local again = r == nonce
  if not again then
    if q == nonce and m then
      local last = claim(m)
      local to = tonumber(ARGV[4])
      if last.done or after == 'unfinished' then
        -- It stands as it is.
      elseif after == 'undo' then
        if p then
          m = p
          set('m', m)
        end
        gone = {'p', 'q'}
      else
        to = after == 'skip' and math.min(to, floor_ms(now)) or last.mark
        if to > last.mark then
          m = claim_text(to, true, 0, last.owner)
        else
          m = claim_text(last.mark, true, last.attempts, last.owner)
        end
        set('m', m)
      end
    end
    if owner then
      gone[#gone + 1] = 'h'
    end
    if living and revoke then
      gone[#gone + 1] = 'r'
    elseif living then
      set('r', nonce)
    end
  elseif revoke then
    -- A revoked nonce that comes round again must not look like a second, harmless release.
    gone[#gone + 1] = 'r'
  end

  -- What needs no memory comes first: after it a full store refuses nothing more.
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
  if #fields > 0 then
    redis.call('HSET', key, unpack(fields))
  end
  if revoke and not (m or n) then
    keep(key, m, n, math.max(now, held and not owner and held.till or 0))
  end
  if owner then
    -- It is released, whoever may not be told.
    pcall(wake, KEYS[2], ARGV[6], ARGV[7])
  end
  return {(living or again) and 'done' or 'other', m and string.match(m, '^%-?%d+') or ''}
end

return {text(now), each(release, KEYS[1])}
