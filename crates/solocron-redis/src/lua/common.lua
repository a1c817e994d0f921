-- Shared by the scripts that it is put in front of.
--
-- A lock is one string of bytes, so that it costs one GET and one SET, and `struct` reads and writes it in C: matching text and
-- printing numbers was most of what a script cost. Numbers are doubles, exact up to 2^53. Little-endian, packed:
--
--   HEAD  "SLR1"  waited  fence  till  since  tick  attempt  holder  released  expires  #name  #node
--   then  name, BODY (nothing for a plain lock), node
--   BODY  claimant  fingerprint  changed  note's version
--         last claim: mark attempts state #owner    claim before it: mark attempts state #owner    refused nonces  #note
--   then  owner, owner before, refused nonces (nonce, until), note
--
-- Times of a holder are microseconds; marks, `changed` and `expires` milliseconds. What is not there is a nonce of zeros, a tick of NaN,
-- state 0. `waited`: 0 where surely nobody stands in line. `expires`: when the store forgets a plain lock, 0 where it never does.
-- state: 1 unfinished, 2 done, 3 and 4 the same with an owner.
local MAGIC, HEAD, BODY = 'SLR1', '<c4BddddI4c16c16dHH', '<c16c8dc8dI4BBdI4BBHH'
local NAME, STRINGS = 86, 73
local NOBODY = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local NAN = 0 / 0
-- How much longer than its lease a plain lock is kept, in milliseconds: at least the first, and the second when it has to be said anew.
local KEPT_AT_LEAST, KEPT = 300000, 360000

local pack, unpack, sub, call = struct.pack, struct.unpack, string.sub, redis.call
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ZERO, CORRUPT = '\0\0\0\0\0\0\0\0', 'ECORRUPT record'

-- One lock that fails stops no other one. A server that takes no writes is another matter: all must know, and look elsewhere.
local function failed(said)
  if string.find(said, 'READONLY', 1, true) or string.find(said, 'MASTERDOWN', 1, true) then
    error(said, 0)
  end
  return 'E' .. said
end
