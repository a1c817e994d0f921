-- Who holds these locks. KEYS: locks. Answers name and holder of each that somebody holds.
local answers = {text(now)}
for i = 1, #KEYS do
  local got = redis.pcall('HMGET', KEYS[i], 'v', 'k', 'h')
  if not got.err and got[1] == VERSION and got[2] and got[3] then
    local ok, held = pcall(holder, got[3])
    if ok and held.till > now then
      answers[#answers + 1] = {got[2], got[3]}
    end
  end
end
return answers
