-- Gets in line for locks. KEYS: for each lock, its waiters. ARGV: channels; then for each place, score ('' for the end of the line),
-- and 1 where a wake-up is to be passed on. Answers for each: score, and whether somebody holds the lock.
local answers = {}
for i = 1, #KEYS / 2 do
  local key, line, at = KEYS[i * 2 - 1], KEYS[i * 2], i * 3 - 1
  local held = taken(key)
  if ARGV[at + 2] == '1' and not held then
    wake(line, ARGV[1])
  end
  local score = ARGV[at + 1] ~= '' and ARGV[at + 1] or string.format('%.0f', now)
  call('ZADD', line, 'NX', score, ARGV[at])
  call('PEXPIRE', line, 60000)
  -- Whoever releases must look here. A record that comes to be later says so from the beginning.
  local text = redis.pcall('GET', key)
  if type(text) == 'string' and sub(text, 1, 5) == MAGIC .. '\0' then
    call('SETRANGE', key, 4, '\1')
  end
  answers[i] = {score, held and 1 or 0}
end
return answers
