-- Gets in line for locks. KEYS: for each lock, its waiters. ARGV: channels; then for each place, score ('' for the end of the line),
-- and 1 where a wake-up is to be passed on. Answers for each: score, and whether somebody holds the lock: 1 yes, 0 no, 2 the acquisition
-- that waits there.
local answers = {}
for i = 1, #KEYS / 2 do
  local key, line, at = KEYS[i * 2 - 1], KEYS[i * 2], i * 3 - 1
  local place, score = ARGV[at], ARGV[at + 1]
  local ok, name, _, _, _, _, till, _, _, _, holder = pcall(load, key)
  local held = ok and name and till > now
  local from = string.find(place, '=', 1, true)
  if held and from and sub(place, from + 1, from + 16) == holder then
    -- It was granted, and has not heard of it.
    answers[i] = {score, 2}
  else
    if ARGV[at + 2] == '1' and not held then
      wake(line, ARGV[1])
    end
    if score == '' then
      score = string.format('%.0f', now)
    end
    call('ZADD', line, 'NX', score, place)
    call('PEXPIRE', line, 60000)
    -- Whoever releases must look here. A record that comes to be later says so from the beginning.
    local text = redis.pcall('GET', key)
    if type(text) == 'string' and sub(text, 1, 5) == MAGIC .. '\0' then
      call('SETRANGE', key, 4, '\1')
    end
    answers[i] = {score, held and 1 or 0}
  end
end
return answers
