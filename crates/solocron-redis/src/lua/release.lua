-- Gives leases back, or revokes nonces. KEYS: for each lock, its waiters. ARGV: channels; then for each
-- nonce, to, what becomes of the mark (0 done, 1 skip, 2 unfinished, 3 undo), revoke (1 or 0); name.
-- Answers with D (done) or O (other), and the mark.
--
-- So many are refused within a minute; more are not taken on, since none of these may be forgotten: acquisitions and revocations can come
-- in over different connections, in any order.
local MAX_REFUSED = 256
local REFUSED_FOR = 60 * 1000000

local answers = pack('<d', now)
local many = #KEYS ~= 2 and {}
for i = 1, #KEYS, 2 do
  local key, line, ask, answer = KEYS[i], KEYS[i + 1], ARGV[(i + 3) / 2], nil
  -- Left with `break` as soon as the answer is known.
  repeat
    local nonce, to, after, revoke, at = unpack('<c16dBB', ask)
    local name, body, mark = sub(ask, at), '', NAN
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
      end
      body, node = sub(text, NAME + found, -1 - nodes), nodes > 0 and sub(text, -nodes) or ''
    end
    local again = released == nonce
    local owner = not again and holder == nonce
    local living = owner and till > now
    local dirty = owner or revoke == 1
    if revoke == 1 and body == '' then
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
      local list = sub(body, strings, strings + 24 * refused - 1)
      local tail = sub(body, strings + 24 * refused)
      if revoke == 1 then
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
    local first
    if owner then
      holder, since, tick, attempt, node = NOBODY, 0, NAN, 0, ''
      if waited == 1 then
        first = redis.pcall('ZPOPMIN', line)
        if first.err then
          first = nil
        else
          first = first[1]
          waited = first and 1 or 0
        end
      end
    end
    if living or again then
      -- A revoked nonce that comes round again must not look like a second, harmless release.
      dirty = dirty or released ~= nonce
      released = revoke == 1 and NOBODY or nonce
    end
    if dirty then
      local lasting = #body > 0 and (string.byte(body, 53) > 0 or sub(body, 33, 40) ~= ZERO)
      local kept = not lasting and revoke == 1
      if kept then
        local ends = (till > now and till or now) / 1000
        expires = ends - ends % 1 + KEPT
      end
      if owner then
        till = 0
      end
      text = pack(HEAD, MAGIC, waited, fence, till, since, tick, attempt, holder, released, expires, #name, #node) .. name .. body .. node
      local wrote
      if lasting then
        wrote = redis.pcall('SET', key, text)
      elseif kept then
        wrote = redis.pcall('SET', key, text, 'PX', expires - (now - now % 1000) / 1000)
      else
        wrote = redis.pcall('SET', key, text, 'KEEPTTL')
      end
      if wrote.err then
        -- What is held must be given back also where the memory is full. After a first write that needs none, the server refuses no
        -- second one in the middle of a script.
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
    end
    if first then
      -- It is released, whoever may not be told.
      pcall(wake, line, ARGV[1], first)
    end
    answer = ((living or again) and 'D' or 'O') .. pack('<d', mark)
  until true
  answer = pack('<I4', #answer) .. answer
  if #KEYS == 2 then
    return answers .. answer
  end
  many[#many + 1] = answer
end
return answers .. table.concat(many)
