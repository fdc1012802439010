"""What the Redis ledger tells of all its jobs at once; see `Overview`. `redis_lua` describes the keys."""

from __future__ import annotations

from penstock.core.overview import Tally
from penstock.job.lifecycle import State
from penstock.job.models import Job
from penstock.ledger import redis_rows, rows
from penstock.ledger.redis_lua import PRELUDE, Script
from penstock.ledger.redis_server import RedisServer

_PAGE = 1000
"""Jobs that are counted in one script: nobody else is served while it runs."""

_TALLY = Script(f"""{PRELUDE}
local state, told, at_of = ARGV[3], {{}}, {{}}
local ids = redis.call('ZRANGEBYLEX', P .. 'state:' .. state, ARGV[4], '+', 'LIMIT', 0, ARGV[5])
for _, id in ipairs(ids) do
  local row, shown, at, v = P .. 'job:' .. id, state, nil, nil
  if state == 'queued' then
    v = redis.call('HMGET', row, 'queue', 'name', 'scheduled_at', 'attempt', 'held', 'note')
    at = tonumber(v[3])
    if v[5] or v[6] then
      shown = 'blocked'
    elseif at and at > now then
      shown = (tonumber(v[4]) or 0) > 0 and 'retrying' or 'scheduled'
    end
  elseif state == 'running' then
    v = redis.call('HMGET', row, 'queue', 'name', 'started_at', 'cancel_requested_at', 'lease_until')
    at = tonumber(v[3])
    if v[4] then
      shown = 'cancelling'
    elseif v[5] and (tonumber(v[5]) or 0) < now then
      shown = 'overdue'
    end
  else
    v = redis.call('HMGET', row, 'queue', 'name')
  end
  if v[1] and v[2] then
    local key = v[1] .. '\\n' .. v[2] .. '\\n' .. shown
    local one = told[at_of[key]]
    if not one then
      one = {{v[1], v[2], shown, 0, at}}
      told[#told + 1] = one
      at_of[key] = #told
    end
    one[4] = one[4] + 1
    if at and (not one[5] or at < one[5]) then one[5] = at end
  end
end
for _, one in ipairs(told) do one[5] = one[5] and num(one[5]) or '' end
return {{ids[#ids] or '', told}}""")

_UPCOMING = Script(f"""{PRELUDE}
local next, found = {{}}, {{}}
for _, queue in ipairs(redis.call('SMEMBERS', P .. 'queues')) do
  for _, kind in ipairs({{':wait', ':retry'}}) do
    local some = redis.call('ZRANGEBYSCORE', P .. 'queue:' .. queue .. kind, '(' .. num(now), '+inf', 'WITHSCORES',
      'LIMIT', 0, ARGV[3])
    for i = 1, #some, 2 do next[#next + 1] = {{some[i], tonumber(some[i + 1])}} end
  end
end
table.sort(next, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
for i = 1, math.min(#next, tonumber(ARGV[3])) do found[i] = redis.call('HGETALL', P .. 'job:' .. next[i][1]) end
return found""")


def tally(server: RedisServer, time: str, *, live: bool) -> list[Tally]:
    """See `Overview.tally`; ``time`` is the now of a test, or empty."""
    counts: dict[tuple[str, str, str], tuple[int, float | None]] = {}
    for state in State:
        if live and state.final:
            continue
        after = "-"
        while True:
            last, told = server.run(_TALLY, time, state.value, after, _PAGE)
            for *group, number, first in told:
                queue, name, shown = (part.decode(errors="replace") for part in group)
                key = (queue, name, shown)
                count, known = counts.get(key, (0, None))
                firsts = [at for at in (known, float(first) if first else None) if at is not None]
                counts[key] = (count + number, min(firsts, default=None))
            if not last:
                break
            after = f"({last.decode()}"
    return [
        Tally(queue=queue, name=name, state=state, count=count, first_at=None if at is None else rows.instant(at))
        for (queue, name, state), (count, at) in counts.items()
    ]


def upcoming(server: RedisServer, time: str, limit: int) -> list[Job]:
    """See `Overview.upcoming`."""
    return [redis_rows.job_of(flat) for flat in server.run(_UPCOMING, time, limit)]
