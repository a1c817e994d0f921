-- Lines of waiters. A place in one is node:number, which is told; or node:number=, the nonce of the acquisition that waits there, its ttl_us,
-- longest_us and the name of its node, which may also be granted the lock.
--
-- What a node is told: the line's slug; then, where an acquisition waits, a byte of 0 and its nonce; then, where it was granted, when, and
-- the record of the lock.
local function message(line, channels, place)
  -- A line's name is as long as a channel's, but for what comes last.
  local slug = sub(line, #channels + 1)
  local at = string.find(place, '=', 1, true)
  return at and slug .. '\0' .. sub(place, at + 1, at + 16) or slug
end

-- The next one in line is told; one whose process is gone is passed over. `first`: who was taken out of the line.
local function wake(line, channels, first)
  for _ = 1, 64 do
    first = first or call('ZPOPMIN', line)[1]
    if not first or call('PUBLISH', channels .. string.match(first, '^%x+'), message(line, channels, first)) > 0 then
      return
    end
    first = nil
  end
end
