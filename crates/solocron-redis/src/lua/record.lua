
-- A lock as the scripts that are not in a hurry see it.
local function floor_ms(us)
  return (us - us % 1000) / 1000
end

-- Reads a lock: name (nil: none of ours, and why), body, node, and the head in its order.
local function load(key, name)
  local text = call('GET', key)
  if not text then
    return name or '', '', '', 1, 0, 0, 0, NAN, 0, NOBODY, NOBODY, 0
  end
  if sub(text, 1, 4) ~= MAGIC then
    return nil, sub(text, 1, 3) == 'SLR' and 'V' .. sub(text, 4, 4) or 'F'
  end
  if #text < NAME then
    error('CORRUPT record')
  end
  local _, waited, fence, till, since, tick, attempt, holder, released, expires, names, nodes = unpack(HEAD, text)
  local found = sub(text, NAME, NAME + names - 1)
  if name and found ~= name then
    return nil, 'N' .. found
  end
  if #text < NAME - 1 + names + nodes then
    error('CORRUPT record')
  end
  return found, sub(text, NAME + names, -1 - nodes), sub(text, #text - nodes + 1),
    waited, fence, till, since, tick, attempt, holder, released, expires
end

-- Writes a lock, and answers with its bytes. A plain one without a note is forgotten in the end, everything else stays. `anew`: in any case
-- KEPT after its lease or now.
local function save(key, anew, name, body, node, waited, fence, till, since, tick, attempt, holder, released, expires)
  if body ~= '' and (string.byte(body, 53) > 0 or sub(body, 33, 40) ~= ZERO) then
    local text = pack(HEAD, MAGIC, waited, fence, till, since, tick, attempt, holder, released, 0, #name, #node) .. name .. body .. node
    call('SET', key, text)
    return text
  end
  local ends = (till > now and till or now) / 1000
  anew = anew or expires < (till > 0 and ends + KEPT_AT_LEAST or 0)
  if anew then
    expires = floor_ms(till > now and till or now) + KEPT
  end
  local text = pack(HEAD, MAGIC, waited, fence, till, since, tick, attempt, holder, released, expires, #name, #node) .. name .. body .. node
  if anew then
    call('SET', key, text, 'PX', expires - floor_ms(now))
  else
    call('SET', key, text, 'KEEPTTL')
  end
  return text
end

-- The same also where the memory is full: what is held must be renewed and given back all the same. After a first write that needs no
-- memory, the server refuses no second one in the middle of a script.
local function save_anyway(key, anew, ...)
  if not pcall(save, key, anew, ...) then
    redis.call('PERSIST', key)
    save(key, true, ...)
  end
end

-- One lock that is none of ours stops no other one. A server that takes no writes is another matter: all must know, and look elsewhere.
local function each(work, ...)
  local ok, answer = pcall(work, ...)
  if not ok then
    local said = type(answer) == 'table' and answer.err or tostring(answer)
    if string.find(said, 'READONLY', 1, true) or string.find(said, 'MASTERDOWN', 1, true) then
      error(answer, 0)
    end
    answer = 'E' .. said
  end
  return pack('<I4', #answer) .. answer
end

-- Whether somebody holds the lock, whatever else is wrong with it.
local function taken(key)
  local ok, name, _, _, _, _, till = pcall(load, key)
  return ok and name and till > now
end
