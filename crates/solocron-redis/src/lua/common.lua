-- Shared by the scripts below it. Numbers are doubles here, exact up to 2^53; they travel as decimal text.
--
-- A lock is one hash:
--   v   format version, k full name, f last fence
--   h   holder:    nonce until_us since_us attempt tick|- node
--   m   last claim: mark_ms done attempts -|=node      (only an enrolled key has one)
--   p   the claim before it, q the nonce that moved the mark, s schedule: fingerprint since_ms
--   r   last released nonce, x refused nonces: nonce until_us,...
--   n   note: version body
local VERSION = '1'
-- So many within a minute; more are not taken on, since none of these may be forgotten: acquisitions and revocations can come in over
-- different connections, in any order.
local MAX_REFUSED = 256
local REFUSED_FOR = 60 * 1000000
-- How much longer than its lease the record of a plain lock is kept.
local KEPT_FOR = 300 * 1000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function text(number)
  return string.format('%.0f', number)
end

local function floor_ms(us)
  return (us - us % 1000) / 1000
end

-- Reads fields of a lock. Second result: why it is none of ours.
local function load(key, name, ...)
  local got = redis.call('HMGET', key, 'v', 'k', ...)
  if got[1] == VERSION and got[2] == name then
    return got
  end
  if got[1] == VERSION then
    return nil, {'name', got[2] or ''}
  end
  if got[1] then
    return nil, {'version', got[1]}
  end
  if redis.call('EXISTS', key) == 1 then
    return nil, {'foreign'}
  end
  return got
end

local function new(got)
  return not got[1]
end

-- A plain lock without a note is forgotten in the end; everything else stays.
local function keep(key, got_m, got_n, until_us)
  if got_m or got_n then
    return redis.call('PERSIST', key)
  end
  return redis.call('PEXPIRE', key, text(floor_ms(until_us - now + KEPT_FOR)))
end

local function holder(h)
  if not h then
    return nil
  end
  local nonce, till, rest = string.match(h, '^(%x+) (%d+) (%d+ %d+ %S+ .*)$')
  if not nonce then
    error('CORRUPT holder')
  end
  return {nonce = nonce, till = tonumber(till), rest = rest}
end

local function claim(m)
  local mark, done, attempts, owner = string.match(m, '^(%-?%d+) (%d) (%d+) (.+)$')
  if not mark then
    error('CORRUPT claim')
  end
  return {mark = tonumber(mark), done = done == '1', attempts = tonumber(attempts), owner = owner}
end

local function claim_text(mark, done, attempts, owner)
  return text(mark) .. (done and ' 1 ' or ' 0 ') .. text(attempts) .. ' ' .. owner
end

-- One lock that is none of ours stops no other one. A server that takes no writes is another matter: all must know, and look elsewhere.
local function each(work, key, at)
  local ok, answer = pcall(work, key, at)
  if ok then
    return answer
  end
  local said = type(answer) == 'table' and answer.err or tostring(answer)
  if string.find(said, 'READONLY', 1, true) or string.find(said, 'MASTERDOWN', 1, true) then
    error(answer, 0)
  end
  return {'error', said}
end

-- Whether somebody holds the lock, whatever else is wrong with it.
local function taken(key)
  local ok, held = pcall(function()
    return holder(redis.call('HMGET', key, 'h')[1])
  end)
  return ok and held and held.till > now
end

-- The next one in line is told; one whose process is gone is passed over. A place is node:number.
local function wake(waiting, channels, lock)
  for _ = 1, 64 do
    local next = redis.call('ZPOPMIN', waiting)[1]
    if not next or redis.call('PUBLISH', channels .. string.match(next, '^%x+'), lock) > 0 then
      return
    end
  end
end
