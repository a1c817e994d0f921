-- Leaves a line. KEYS: lock, its waiters. ARGV: channels, place, slug, and 1 where a wake-up is to be passed on.
redis.call('ZREM', KEYS[2], ARGV[2])
if ARGV[4] == '1' and not taken(KEYS[1]) then
  wake(KEYS[2], ARGV[1], ARGV[3])
end
return 1
