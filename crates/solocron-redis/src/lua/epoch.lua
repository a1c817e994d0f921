-- The epoch of a namespace: which memory this store has. KEYS[1] holds "SLE1" id at lost run:
--   id    changes when the store may have forgotten something
--   at    when it began; lost: when a loss was found (NaN: this memory goes back to the first use)
--   run   the server process that it was seen on, or nothing
-- ARGV: the record that the caller knows, of the process that it talks to, or nothing; that process, or nothing where it cannot or need
-- not be compared. `random`: eight bytes. `strangers`: others are here already. Answers with the record and `lost`.
local function epoch(random, strangers)
  local known, run = ARGV[1], ARGV[2]
  local text = call('GET', KEYS[1])
  local id, at, lost, seen
  if text then
    if sub(text, 1, 4) ~= 'SLE1' or #text < 36 then
      error('WRONGTYPE the key of the epoch holds something else')
    end
    at, lost = unpack('<dd', text, 21)
    -- The clock was set back: a loss that lies ahead would refuse everything until the clock gets there.
    local ahead = lost > now
    if text == known and not ahead then
      return text, lost == lost and lost or nil
    end
    id, seen = sub(text, 5, 20), sub(text, 37)
    if run == '' or seen == '' or seen == run then
      local adopted = seen == '' and run ~= ''
      -- Somebody without a memory of its own began this epoch, and the caller is older than it.
      local forgotten = lost ~= lost and known ~= '' and sub(known, 5, 20) ~= id
      if adopted or forgotten or ahead then
        lost = (forgotten and at) or (ahead and now) or lost
        text = pack('<c4c16dd', 'SLE1', id, at, lost) .. (adopted and run or seen)
        call('SET', KEYS[1], text)
      end
      return text, lost == lost and lost or nil
    end
  end
  lost = (id or known ~= '' or strangers) and now or nil
  text = pack('<c4c8ddd', 'SLE1', random, now, now, lost or NAN) .. run
  call('SET', KEYS[1], text)
  return text, lost
end
