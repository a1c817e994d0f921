-- Does what is done rarely: waking somebody, beginning to wait, writing while the memory is full. A user without the rights hears of it at once.
-- KEYS: a line of nobody. ARGV: own channel.
call('ZPOPMIN', KEYS[1])
call('ZREM', KEYS[1], '')
call('PERSIST', KEYS[1])
call('SETRANGE', KEYS[1], 0, '')
return call('PUBLISH', ARGV[1], '')
