-- The next one in line is told; one whose process is gone is passed over. A place is node:number. `first`: who was taken out of the line.
local function wake(line, channels, first)
  -- A line's name is as long as a channel's, but for what comes last.
  local slug = sub(line, #channels + 1)
  for _ = 1, 64 do
    first = first or call('ZPOPMIN', line)[1]
    if not first or call('PUBLISH', channels .. string.match(first, '^%x+'), slug) > 0 then
      return
    end
    first = nil
  end
end
