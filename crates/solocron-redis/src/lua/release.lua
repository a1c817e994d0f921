-- Gives leases back, or revokes nonces. KEYS: epoch; for each lock, its waiters. ARGV: channels, the record of the epoch that the caller
-- knows; then for each
-- nonce, to, what becomes of the mark (0 done, 1 skip, 2 unfinished, 3 undo), how, #name; name, place.
-- How: 0 give back, 1 revoke, 2 give back and leave the line at that place, 3 the same with a wake-up in hand.
-- Answers with D (done) or O (other), and the mark.
--
-- Where an acquisition waits in line and nothing speaks against it, the lock is granted to it in the same step, and its node is told; else
-- the next one in line is told that the lock is free.
--
-- So many are refused within a minute; more are not taken on, since none of these may be forgotten: acquisitions and revocations can come
-- in over different connections, in any order.
local MAX_REFUSED = 256
local REFUSED_FOR = 60 * 1000000

local answers = pack('<d', now)
local many = #KEYS ~= 3 and {}

-- From when on a loss of memory speaks against no grant, but for the longest ttl after it; nil: nobody knows. As in acquire, where one begins.
local settled
local function loss()
  if settled == nil then
    local text = redis.pcall('GET', KEYS[1])
    settled = type(text) == 'string' and text == ARGV[2] and #text >= 36 and unpack('<d', text, 29)
  end
  return settled
end

for i = 2, #KEYS, 2 do
  local key, line, ask, answer = KEYS[i], KEYS[i + 1], ARGV[(i + 4) / 2], nil
  -- Left with `break` as soon as the answer is known.
  repeat
    local nonce, to, after, how, names, at = unpack('<c16dBBH', ask)
    local name, body, mark = sub(ask, at, at + names - 1), '', NAN
    local revoke, list = how == 1, ''
    if how > 1 then
      redis.pcall('ZREM', line, sub(ask, at + names))
    end
    local waited, fence, till, since, tick, attempt, holder, released, expires, node = 1, 0, 0, 0, NAN, 0, NOBODY, NOBODY, 0, ''
    local text = redis.pcall('GET', key)
    if text then
      if type(text) == 'table' then
        answer = failed(text.err)
        break
      elseif sub(text, 1, 4) ~= MAGIC then
        answer = sub(text, 1, 3) == 'SLR' and 'V' .. sub(text, 4, 4) or 'F'
        break
      elseif #text < NAME then
        answer = CORRUPT
        break
      end
      local _, found, nodes
      _, waited, fence, till, since, tick, attempt, holder, released, expires, found, nodes = unpack(HEAD, text)
      if found ~= #name or sub(text, NAME, NAME + found - 1) ~= name then
        answer = 'N' .. sub(text, NAME, NAME + found - 1)
        break
      elseif #text < NAME - 1 + found + nodes then
        answer = CORRUPT
        break
      end
      body, node = sub(text, NAME + found, -1 - nodes), nodes > 0 and sub(text, -nodes) or ''
    end
    local again = released == nonce
    local owner = not again and holder == nonce
    local living = owner and till > now
    local dirty = owner or revoke
    if revoke and body == '' then
      body = string.rep('\0', STRINGS - 1)
    end
    if body ~= '' then
      if #body < STRINGS - 1 then
        answer = CORRUPT
        break
      end
      local claimant, fingerprint, changed, version, last, attempts, state, owners, before, attempts_before, state_before, owners_before, refused, notes =
        unpack(BODY, body)
      local strings = STRINGS + owners + owners_before
      if #body ~= strings - 1 + 24 * refused + notes then
        answer = CORRUPT
        break
      end
      list = sub(body, strings, strings + 24 * refused - 1)
      local tail = sub(body, strings + 24 * refused)
      if revoke then
        local kept = {}
        for from = 1, #list, 24 do
          local other, ends = unpack('<c16d', list, from)
          if other ~= nonce and ends > now then
            kept[#kept + 1] = sub(list, from, from + 23)
          end
        end
        if #kept >= MAX_REFUSED then
          answer = 'EFULL too many acquisitions of this lock were revoked within a minute'
          break
        end
        kept[#kept + 1] = pack('<c16d', nonce, now + REFUSED_FOR)
        list, refused = table.concat(kept), #kept
      end
      local names = sub(body, STRINGS, strings - 1)
      if not again and claimant == nonce and state % 2 == 1 and after ~= 2 then
        dirty = true
        if after == 3 then
          if state_before > 0 then
            names = sub(names, owners + 1)
            last, attempts, state, owners = before, attempts_before, state_before, owners_before
            before, attempts_before, state_before, owners_before = 0, 0, 0, 0
          end
          claimant = NOBODY
        else
          state = state + 1
          if after == 1 then
            local limit = (now - now % 1000) / 1000
            to = to < limit and to or limit
            if to > last then
              last, attempts = to, 0
            end
          end
        end
      end
      if dirty then
        body = pack(BODY, claimant, fingerprint, changed, version, last, attempts, state, owners, before, attempts_before, state_before, owners_before, refused, notes)
          .. names .. list .. tail
      end
      if state > 0 then
        mark = last
      end
      if state > 0 or version ~= ZERO then
        expires = 0
      end
    end
    if living or again then
      -- A revoked nonce that comes round again must not look like a second, harmless release.
      dirty = dirty or released ~= nonce
      released = revoke and NOBODY or nonce
    end
    local lasting = #body > 0 and (string.byte(body, 53) > 0 or sub(body, 33, 40) ~= ZERO)
    -- More often than once where whoever is next in line does not hear.
    for turn = 1, dirty and 65 or 0 do
      local first, granted
      if owner then
        holder, since, tick, attempt, till, node = NOBODY, 0, NAN, 0, 0, ''
        if waited == 1 and turn < 65 then
          first = redis.pcall('ZPOPMIN', line)
          first = not first.err and first[1]
          waited = first and 1 or 0
        end
        local from = first and string.find(first, '=', 1, true)
        if from and #first >= from + 32 then
          local other, ttl, longest = unpack('<c16dd', first, from + 1)
          local lost = loss()
          granted = lost and not (now < lost + longest) and other ~= nonce and other ~= released and not string.find(list, other, 1, true)
          if granted then
            fence = fence + 1
            if fence < now then
              fence = now
            end
            holder, since, attempt, till, node = other, now, 1, now + ttl, sub(first, from + 33)
          end
        end
      end
      local ends = (till > now and till or now) / 1000
      local anew = not lasting and (revoke or granted and expires < ends + KEPT_AT_LEAST)
      if anew then
        expires = ends - ends % 1 + KEPT
      end
      text = pack(HEAD, MAGIC, waited, fence, till, since, tick, attempt, holder, released, expires, #name, #node) .. name .. body .. node
      local wrote
      if lasting then
        wrote = redis.pcall('SET', key, text)
      elseif anew then
        wrote = redis.pcall('SET', key, text, 'PX', expires - (now - now % 1000) / 1000)
      else
        wrote = redis.pcall('SET', key, text, 'KEEPTTL')
      end
      if wrote.err then
        -- What is held must be given back also where the memory is full; nothing is granted then. After a first write that needs none,
        -- the server refuses no second one in the middle of a script.
        if granted then
          granted, holder, since, attempt, till, node = nil, NOBODY, 0, 0, 0, ''
          text = pack(HEAD, MAGIC, waited, fence, till, since, tick, attempt, holder, released, expires, #name, #node) .. name .. body .. node
        end
        wrote = redis.pcall('PERSIST', key)
        if not (type(wrote) == 'table' and wrote.err) then
          if lasting then
            wrote = redis.pcall('SET', key, text)
          else
            wrote = redis.pcall('SET', key, text, 'PX', expires - (now - now % 1000) / 1000)
          end
        end
        if wrote.err then
          answer = failed(wrote.err)
          break
        end
      end
      if not first then
        break
      end
      -- It is given back, whoever may not be told.
      local news = message(line, ARGV[1], first)
      if granted then
        news = news .. pack('<d', now) .. text
      end
      local heard = redis.pcall('PUBLISH', ARGV[1] .. string.match(first, '^%x+'), news)
      if heard ~= 0 then
        break
      end
    end
    if answer then
      break
    end
    if how == 3 and not owner and till <= now then
      pcall(wake, line, ARGV[1])
    end
    answer = ((living or again) and 'D' or 'O') .. pack('<d', mark)
  until true
  answer = pack('<I4', #answer) .. answer
  if #KEYS == 3 then
    return answers .. answer
  end
  many[#many + 1] = answer
end
return answers .. table.concat(many)
