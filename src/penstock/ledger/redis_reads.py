"""The scripts of the Redis ledger that decide nothing: what is there, what bodies and workers tell.

`redis_lua` describes the keys.
"""

from __future__ import annotations

from penstock.ledger.redis_lua import PRELUDE, Script

LOGS_MAX = 100_000
"""Log lines that are kept of one job over all its attempts, about, the newest."""

COUNTS = Script(f"""{PRELUDE}
local n, t = {{0, 0, 0, 0, 0, 0, 0}}, num(now)
local function add(i, ...) n[i] = n[i] + redis.call(...) end
for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  local at = P .. 'queue:' .. queue
  add(1, 'ZCOUNT', at .. ':wait', '(' .. t, '+inf')
  add(2, 'ZCOUNT', at .. ':wait', '-inf', t)
  add(2, 'ZCOUNT', at .. ':retry', '-inf', t)
  add(3, 'ZCARD', at .. ':blocked')
  add(3, 'ZCARD', at .. ':held')
  add(4, 'ZCOUNT', at .. ':lease', t, '+inf')
  add(5, 'ZCOUNT', at .. ':retry', '(' .. t, '+inf')
  add(6, 'ZCARD', at .. ':cancelling')
  add(7, 'ZCOUNT', at .. ':lease', '-inf', '(' .. t)
end
for i, state in ipairs({{'succeeded', 'failed', 'cancelled'}}) do
  n[7 + i] = redis.call('ZCARD', P .. 'state:' .. state)
end
return n""")
"""Answers a number for each of `lifecycle.SHOWN_STATES`."""

BACKLOG = Script(f"""{PRELUDE}
local queues = cmsgpack.unpack(ARGV[3])
if #queues == 0 then queues = redis.call('SMEMBERS', P .. 'queues') end
local due, running = 0, 0
for _, queue in ipairs(queues) do
  local at = P .. 'queue:' .. queue
  for _, kind in ipairs({{':wait', ':retry', ':blocked'}}) do
    due = due + redis.call('ZCOUNT', at .. kind, '-inf', num(now))
  end
  running = running + redis.call('ZCARD', at .. ':lease') + redis.call('ZCARD', at .. ':cancelling')
end
return {{due, running}}""")

PUBLISHABLE = Script(f"""{PRELUDE}
local found = {{}}
for i, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', num(now), 'LIMIT', 0, ARGV[3])) do
  found[i] = redis.call('HGETALL', P .. 'job:' .. id)
end
return found""")

POSTPONE = Script(f"""{PRELUDE}
local queues, limit, grace_s, max_grace_s, trusted_s = {{}}, tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]),
  tonumber(ARGV[7])
for _, queue in ipairs(cmsgpack.unpack(ARGV[3])) do queues[queue] = true end
local postponed = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', num(now), 'LIMIT', 0, limit)) do
  local row = P .. 'job:' .. id
  local v = redis.call('HMGET', row, 'queue', 'published_at', 'publish_due_at', 'scheduled_at')
  local published = v[2] and tonumber(v[2])
  local waited_s = published and (tonumber(v[3]) or 0) - published
  if queues[v[1]] and published and waited_s < trusted_s and (tonumber(v[4]) or 0) <= now then
    local wait_s = math.min(math.max(2 * waited_s, grace_s), max_grace_s)
    redis.call('HSET', row, 'publish_due_at', num(now + wait_s))
    redis.call('ZADD', P .. 'due', num(now + wait_s), id)
    postponed = postponed + 1
  end
end
return postponed""")
"""`due` holds what is queued and admitted alone."""

EXPIRED = Script(f"""{PRELUDE}
local over, found = {{}}, {{}}
for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  for _, kind in ipairs({{':lease', ':cancelling'}}) do
    local some = redis.call('ZRANGEBYSCORE', P .. 'queue:' .. queue .. kind, '-inf', '(' .. num(now), 'WITHSCORES',
      'LIMIT', 0, ARGV[3])
    for i = 1, #some, 2 do over[#over + 1] = {{some[i], tonumber(some[i + 1])}} end
  end
end
table.sort(over, function(a, b) return a[2] < b[2] end)
for i = 1, math.min(#over, tonumber(ARGV[3])) do found[i] = redis.call('HGETALL', P .. 'job:' .. over[i][1]) end
return found""")

EXPIRABLE = Script(f"""{PRELUDE}
local found = {{}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'expiring', '-inf', '(' .. num(now), 'LIMIT', 0, ARGV[3])) do
  local v = redis.call('HMGET', P .. 'job:' .. id, 'state', 'expires_at')
  if v[1] == 'queued' and v[2] then
    found[#found + 1] = redis.call('HGETALL', P .. 'job:' .. id)
  else -- it began, or is gone
    redis.call('ZREM', P .. 'expiring', id)
  end
end
return found""")

CANCEL_REQUESTS = Script(f"""{PRELUDE}
local found = {{}}
for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  for _, id in ipairs(redis.call('ZRANGE', P .. 'queue:' .. queue .. ':cancelling', 0, -1)) do
    local v = redis.call('HMGET', P .. 'job:' .. id, 'owner', 'attempt')
    if v[1] == ARGV[3] then found[#found + 1] = {{id, v[2]}} end
  end
end
return found""")

ROWS = Script("""
local found, wanted = {}, {}
for i = 3, #ARGV do wanted[ARGV[i]] = true end
for _, id in ipairs(cmsgpack.unpack(ARGV[2])) do
  local row = ARGV[1] .. 'job:' .. id
  if #ARGV == 2 or wanted[redis.call('HGET', row, 'state') or ''] then
    local flat = redis.call('HGETALL', row)
    if #flat > 0 then found[#found + 1] = flat end
  end
end
return found""")
"""The rows of these ids, only of these stored states where any is named; what is gone is left out."""

REPORT = Script(f"""{PRELUDE}
for _, news in ipairs(cmsgpack.unpack(ARGV[3])) do
  local kind, row, attempt = news[1], P .. 'job:' .. news[2], news[3]
  if redis.call('EXISTS', row) == 0 then -- purged: there is nothing that the news could belong to
  elseif kind == 'log' then
    local seq = redis.call('INCR', P .. 'seq')
    redis.call('XADD', row .. ':logs', 'MAXLEN', '~', {LOGS_MAX}, seq .. '-0', 'line', cmsgpack.pack(news[4]))
  elseif kind == 'node' then
    local field = attempt .. ':' .. news[4]
    local known = redis.call('HGET', row .. ':nodes', field)
    known = known and cmsgpack.unpack(known)
    local no = known and known[1] or redis.call('HLEN', row .. ':nodes')
    local started = news[6] or (known and known[3]) or false
    redis.call('HSET', row .. ':nodes', field, cmsgpack.pack({{no, news[5], started, news[7], news[8]}}))
  elseif (tonumber(redis.call('HGET', row, 'attempt')) or 0) == attempt then
    if #news[4] > 0 then redis.call('HSET', row, unpack(news[4])) end
  end
end""")

TELL_WORKER = Script(f"""{PRELUDE}
redis.call('HSET', P .. 'workers', ARGV[3], ARGV[4])
redis.call('ZADD', P .. 'workers:seen', num(now), ARGV[3])
-- Killed workers never strike themselves off.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers:seen', '-inf', '(' .. num(now - ARGV[5]))) do
  redis.call('HDEL', P .. 'workers', id)
  redis.call('ZREM', P .. 'workers:seen', id)
end""")

WORKERS = Script(f"""{PRELUDE}
local found = redis.call('ZRANGEBYSCORE', P .. 'workers:seen', num(now - ARGV[3]), '+inf', 'WITHSCORES')
local told = {{}}
for i = 1, #found, 2 do
  local info = redis.call('HGET', P .. 'workers', found[i])
  if info then told[#told + 1] = {{info, found[i + 1]}} end
end
return told""")
