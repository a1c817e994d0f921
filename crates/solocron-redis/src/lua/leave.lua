-- Leaves a line. KEYS: lock, its waiters. ARGV: channels, place, and 1 where a wake-up is to be passed on.
call('ZREM', KEYS[2], ARGV[2])
if ARGV[3] == '1' and not taken(KEYS[1]) then
  wake(KEYS[2], ARGV[1])
end
return 1
