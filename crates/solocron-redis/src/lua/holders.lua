-- Who holds these locks. KEYS: locks. Answers with the record of each that somebody holds.
local answers = {pack('<d', now)}
for i = 1, #KEYS do
  local ok, name, _, _, _, _, till = pcall(load, KEYS[i])
  if ok and name and till > now then
    local text = call('GET', KEYS[i])
    answers[#answers + 1] = pack('<I4', #text) .. text
  end
end
return table.concat(answers)
