-- One atomic attempt for each lock. KEYS: epoch, locks; the lines of those that are to wait in one. ARGV: see epoch; then for each lock
-- nonce, ttl_us, longest_us, tick, after, max attempts (0: at most once), score, #place, #name; name, place, node. A place (see wake) that
-- finds the lock held gets in line, at its score or (0) at the end, and is answered with J instead of B.
--
-- Written in one piece, without closures, tables and pcall, each of which is dear when it comes with every attempt.
local memory, lost = epoch(sub(ARGV[3], 1, 8), false)
local answers = pack('<d', now) .. (memory == ARGV[1] and '\0' or string.char(#memory) .. memory)

local count, lines = #ARGV - 1, #ARGV - 1
local many = count ~= 2 and {}
for i = 2, count do
  local key, ask, answer = KEYS[i], ARGV[i + 1], nil
  -- Left with `break` as soon as the answer is known.
  repeat
    local nonce, ttl, longest, tick, after, max, score, places, names, at = unpack('<c16ddddI4dHH', ask)
    local name, node = sub(ask, at, at + names - 1), sub(ask, at + names + places)
    local line, place
    if places > 0 then
      lines = lines + 1
      line, place = KEYS[lines], sub(ask, at + names, at + names + places - 1)
    end
    local waited, fence, till, expires, body = 1, 0, 0, 0, ''
    local released, holder, nodes, found, _
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
      _, waited, fence, till, _, _, _, holder, released, expires, found, nodes = unpack(HEAD, text)
      if found ~= names or sub(text, NAME, NAME + names - 1) ~= name then
        answer = 'N' .. sub(text, NAME, NAME + found - 1)
        break
      elseif #text < NAME - 1 + found + nodes then
        answer = CORRUPT
        break
      end
      body = sub(text, NAME + names, -1 - nodes)
      if released == nonce then
        answer = 'X'
        break
      end
    end
    local fingerprint, changed, version, mark, attempts, state, owners, mark_before, attempts_before, state_before, owners_before, refused, notes
    if body ~= '' then
      if #body < STRINGS - 1 then
        answer = CORRUPT
        break
      end
      _, fingerprint, changed, version, mark, attempts, state, owners, mark_before, attempts_before, state_before, owners_before, refused, notes =
        unpack(BODY, body)
      if #body ~= STRINGS - 1 + owners + owners_before + 24 * refused + notes then
        answer = CORRUPT
        break
      end
      for from = STRINGS + owners + owners_before, STRINGS + owners + owners_before + 24 * (refused - 1), 24 do
        local other, ends = unpack('<c16d', body, from)
        if other == nonce and ends > now then
          answer = 'X'
        end
      end
      if answer then
        break
      end
    end
    if holder == nonce then
      answer = till > now and 'W' .. text or 'X'
      if place then
        redis.pcall('ZREM', line, place)
      end
      break
    end
    local claiming, floor, unfinished = tick == tick, mark, false
    if claiming then
      if not state or state == 0 then
        answer = 'U'
        break
      elseif tick * 1000 > now then
        answer = 'Y'
        break
      end
      local done = state % 2 == 0
      if tick < mark or (tick == mark and (done or attempts >= max)) then
        answer = 'S' .. text
        break
      end
      -- What was claimed before a loss of memory is not known any more: at most once means never again.
      if lost and max == 0 then
        floor = (lost - lost % 1000) / 1000
        if tick <= floor and tick ~= mark then
          answer = 'L' .. pack('<d', floor) .. text
          break
        end
      end
      unfinished = not done and attempts > 0 and attempts < max
    end
    if till > now then
      answer = 'B' .. text
      -- Whoever cannot get in line is not told that it is there.
      if place and type(redis.pcall('ZADD', line, 'NX', score > 0 and score or now, place)) == 'number' then
        redis.pcall('PEXPIRE', line, 60000)
        if waited == 1 or type(redis.pcall('SETRANGE', key, 4, '\1')) == 'number' then
          answer = 'J' .. text
        end
      end
      break
    end
    if claiming and tick ~= mark then
      floor = floor > mark and floor or mark
      if unfinished or floor < after then
        answer = 'H' .. pack('<dB', unfinished and mark or floor, unfinished and 1 or 0)
        break
      end
    end
    if lost and now < lost + longest then
      answer = 'R' .. pack('<d', lost + longest - now)
      break
    end
    fence = fence + 1
    if fence < now then
      fence = now
    end
    till = now + ttl
    local attempt = 1
    if claiming then
      if tick == mark then
        attempt = attempts + 1
      end
      body = pack(BODY, nonce, fingerprint, changed, version, tick, attempt, 3, #node, mark, attempts, state, owners, refused, notes)
        .. node .. sub(body, STRINGS, STRINGS + owners - 1) .. sub(body, STRINGS + owners + owners_before)
    end
    local wrote
    if state and (state > 0 or version ~= ZERO) then
      text = pack(HEAD, MAGIC, waited, fence, till, now, tick, attempt, nonce, released or NOBODY, 0, names, #node) .. name .. body .. node
      wrote = redis.pcall('SET', key, text)
    else
      local ends = till / 1000
      local anew = expires < ends + KEPT_AT_LEAST
      if anew then
        expires = ends - ends % 1 + KEPT
      end
      text = pack(HEAD, MAGIC, waited, fence, till, now, tick, attempt, nonce, released or NOBODY, expires, names, #node) .. name .. body .. node
      if anew then
        wrote = redis.pcall('SET', key, text, 'PX', expires - (now - now % 1000) / 1000)
      else
        wrote = redis.pcall('SET', key, text, 'KEEPTTL')
      end
    end
    answer = wrote.err and failed(wrote.err) or 'W' .. text
    if place and waited == 1 and not wrote.err then
      redis.pcall('ZREM', line, place)
    end
  until true
  answer = pack('<I4', #answer) .. answer
  if count == 2 then
    return answers .. answer
  end
  many[#many + 1] = answer
end
return answers .. table.concat(many)
