-- The epoch of a namespace: which memory this store has. KEYS[1] is its hash:
--   id    changes when the store may have forgotten something
--   run   the server process that it was seen on
--   at    when it began, lost: when a loss was found (absent: this memory goes back to the first use)
-- Answers {id, lost}. `known`: the epoch that the caller remembers; `run` is empty where it cannot or need not be compared.
local function epoch(key, run, known, candidate, strangers)
  local got = redis.call('HMGET', key, 'id', 'run', 'at', 'lost')
  local id, seen, at, lost = got[1], got[2], got[3], got[4]
  if id and (run == '' or seen == '' or seen == run) then
    if seen == '' and run ~= '' then
      redis.call('HSET', key, 'run', run)
    end
    if known ~= '' and known ~= id and not lost then
      -- Somebody without a memory of its own began this epoch, and the caller is older than it.
      lost = at
      redis.call('HSET', key, 'lost', lost)
    end
    if lost and tonumber(lost) > now then
      -- The clock was set back: a loss that lies ahead would refuse everything until the clock gets there.
      lost = text(now)
      redis.call('HSET', key, 'lost', lost)
    end
    return id, tonumber(lost)
  end
  local fields = {'v', VERSION, 'id', candidate, 'run', run, 'at', text(now)}
  if id or known ~= '' or strangers then
    lost = now
    fields[#fields + 1] = 'lost'
    fields[#fields + 1] = text(now)
  else
    lost = nil
  end
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(fields))
  return candidate, lost
end
