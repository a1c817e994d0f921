-- Does what waking somebody takes, so that a user without the rights hears of it at once. KEYS: a line of nobody. ARGV: own channel.
redis.call('ZPOPMIN', KEYS[1])
redis.call('ZREM', KEYS[1], '')
return redis.call('PUBLISH', ARGV[1], '')
