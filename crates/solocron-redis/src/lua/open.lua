-- Confirms the epoch. KEYS: epoch. ARGV: run, known, candidate, channel that every living node hears.
local strangers = false
if ARGV[2] == '' and ARGV[4] ~= '' then
  local heard = redis.pcall('PUBSUB', 'NUMSUB', ARGV[4])
  strangers = not heard.err and tonumber(heard[2]) > 0
end
local id, lost = epoch(KEYS[1], ARGV[1], ARGV[2], ARGV[3], strangers)
return {id, text(now), lost and text(lost) or ''}
