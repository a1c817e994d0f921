-- Gets in line for locks. KEYS: for each lock, its waiters. ARGV: channels; then for each place, score ('' for the end of the line), slug,
-- and 1 where a wake-up is to be passed on. Answers for each: score, and whether somebody holds the lock.
local answers = {text(now)}
for i = 1, #KEYS / 2 do
  local key, waiting, at = KEYS[i * 2 - 1], KEYS[i * 2], i * 4 - 2
  local held = taken(key)
  if ARGV[at + 3] == '1' and not held then
    wake(waiting, ARGV[1], ARGV[at + 2])
  end
  local score = ARGV[at + 1] ~= '' and ARGV[at + 1] or text(now)
  redis.call('ZADD', waiting, 'NX', score, ARGV[at])
  redis.call('PEXPIRE', waiting, 60000)
  answers[i + 1] = {score, held and 1 or 0}
end
return answers
