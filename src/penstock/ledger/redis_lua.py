"""The Lua scripts of the Redis ledger: every guarded write is derived from `lifecycle.TRANSITIONS`.

A script is atomic: its guards and its writes are one step for everybody else. All keys of a ledger begin with one hash
tag, so they lie together on a cluster's node too. Below the prefix ``{namespace}:``

- ``job:ID`` is a row, a hash with a field for each column that differs from its default;
  ``job:ID:history`` (list), ``job:ID:logs`` (stream) and ``job:ID:nodes`` (hash) belong to it;
- ``state:STATE``, ``name:NAME``, ``key:KEY``, ``parent:ID`` are sorted sets of ids, all scores 0: ids in order;
- ``queue:QUEUE:wait``, ``:retry``, ``:blocked`` and ``:held`` have what is queued by when it is due, ``:lease`` and
  ``:cancelling`` what runs by the end of its lease; ``due`` what is to be published, by when;
  ``finished:STATE`` and ``created`` are by time;
- ``live`` and ``ticks`` map keys and ticks to ids, ``queues`` and ``names`` are what there is of each;
- ``unique:KEY`` are the ids of a `unique_key` by when they were made, ``expiring`` those that must begin by a time.

Numbers travel as text with 17 digits: Redis would cut a returned number to an integer, and Lua prints 14 digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from penstock.job.lifecycle import TRANSITIONS, Event, Guard, Rule, State
from penstock.ledger.conflicts import REPLACED
from penstock.ledger.rows import ANSWERED_WHOLE, LAST_INSTANT, STAYING, UNTOLD

HISTORY_MAX = 10_000
"""Transitions that are kept of one job, the newest; only a job handed back in vain for days gets there."""
GUARD_LUA: Mapping[Guard, str] = {
    Guard.DUE: "r.scheduled_at <= now",
    Guard.ADMITTED: "not r.held",
    Guard.FENCE: "r.attempt == attempt",
    Guard.LEASE_OVER: "r.lease_until and r.lease_until < now",
    Guard.CANCEL_ASKED: "r.cancel_requested_at",
    Guard.SEEN: "r.publishes == publishes",
    Guard.OLD: "r.finished_at and r.finished_at < now - older_than_s",
    Guard.HELD: "r.held and r.held == held",
    Guard.FRESH: "not r.expires_at or r.expires_at >= now",
    Guard.STALE: "r.expires_at and r.expires_at < now",
}

UNIQUE: dict[str, str] = {
    "id": "if redis.call('EXISTS', P .. 'job:' .. w.id) == 1 then return w.id end",
    "tick_key": "if w.tick_key then local h = redis.call('HGET', P .. 'ticks', w.tick_key) if h then return h end end",
    "key": """if w.key then
    local h = redis.call('HGET', P .. 'live', w.key)
    local state = h and redis.call('HGET', P .. 'job:' .. h, 'state')
    if state == 'queued' or state == 'running' then return h end
  end""",
}
"""The guards of T1: each names the job that stands in an intent's way."""

PRELUDE = f"""
local P, now = ARGV[1], tonumber(ARGV[2])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local function num(x) return string.format('%.17g', x) end
local function later(s) return math.min(now + s, {LAST_INSTANT!r}) end
"""

# Where a row is found by time; whatever runs has a lease, and whatever is final an end.
_PLACE = """
local function place(r)
  local queue = P .. 'queue:' .. r.queue
  if r.state == 'queued' then
    if r.held or r.note then return queue .. (r.held and ':held' or ':blocked'), r.scheduled_at end
    return queue .. (r.attempt > 0 and ':retry' or ':wait'), r.scheduled_at
  end
  if r.state == 'running' then
    return queue .. (r.cancel_requested_at and ':cancelling' or ':lease'), r.lease_until or 0
  end
  return P .. 'finished:' .. r.state, r.finished_at or 0
end
"""

# What is no number where one should be counts as 0: a damaged row stops no script that comes upon it.
_LOAD = """
local v = redis.call('HMGET', row, 'state', 'attempt', 'errors', 'crashes', 'publishes', 'scheduled_at', 'lease_until',
  'finished_at', 'publish_due_at', 'cancel_requested_at', 'held', 'note', 'owner', 'queue', 'expires_at')
if not v[1] then return false end
local r = {
  state = v[1], attempt = tonumber(v[2]) or 0, errors = tonumber(v[3]) or 0, crashes = tonumber(v[4]) or 0,
  publishes = tonumber(v[5]) or 0, scheduled_at = tonumber(v[6]) or 0, lease_until = v[7] and (tonumber(v[7]) or 0),
  finished_at = v[8] and (tonumber(v[8]) or 0), publish_due_at = v[9] and (tonumber(v[9]) or 0),
  cancel_requested_at = v[10] and (tonumber(v[10]) or 0), held = v[11], note = v[12], owner = v[13], queue = v[14],
  expires_at = v[15] and (tonumber(v[15]) or 0),
}
"""

# A value that may be absent is told with '=' before it: an empty argument is none.
_GIVEN = """
local function given(i) if ARGV[i] ~= '' then return string.sub(ARGV[i], 2) end end
local id, attempt, publishes, lease_s, delay_s = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]),
  tonumber(ARGV[7])
local owner, reason, err, result, note, held = given(8), given(9), given(10), given(11), given(12), given(13)
local begun = ARGV[14] == '1'
"""

_BEFORE = """
local before, was_in, was_at, was_due = r.state, nil, nil, not r.held and r.state == 'queued' and r.publish_due_at
was_in, was_at = place(r)
local set, gone = {}, {}
local function put(name, value)
  r[name] = value
  if value == nil then
    gone[#gone + 1] = name
  else
    set[#set + 1] = name
    set[#set + 1] = type(value) == 'number' and num(value) or value
  end
end
"""

_WRITE = """
if #set > 0 then redis.call('HSET', row, unpack(set)) end
if #gone > 0 then redis.call('HDEL', row, unpack(gone)) end
if r.state ~= before then
  redis.call('ZREM', P .. 'state:' .. before, id)
  redis.call('ZADD', P .. 'state:' .. r.state, 0, id)
end
local is_in, is_at = place(r)
if is_in ~= was_in then redis.call('ZREM', was_in, id) end
if is_in ~= was_in or is_at ~= was_at then redis.call('ZADD', is_in, num(is_at), id) end
local due = not r.held and r.state == 'queued' and r.publish_due_at
if due then
  if due ~= was_due then redis.call('ZADD', P .. 'due', num(due), id) end
elseif was_due then
  redis.call('ZREM', P .. 'due', id)
end
"""

_TELL = f"""
local ran = before == 'running' or r.state == 'running'
local told = cmsgpack.pack({{
  num(now), '%s', before, r.state, r.attempt, ran and r.owner or false, reason or false, err or false }})
if redis.call('RPUSH', row .. ':history', told) > {HISTORY_MAX} then
  redis.call('LTRIM', row .. ':history', -{HISTORY_MAX}, -1)
end
"""


class Script:
    """A script and the name that Redis knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def may_start(rule: Rule) -> str:
    """Return the whole guard of a rule: its start states and its guards."""
    states = " or ".join(f"r.state == '{state}'" for state in rule.start)
    return " and ".join([f"({states})", *(f"({GUARD_LUA[guard]})" for guard in rule.guards)])


def transition(event: Event, to: State, to_if_cancelled: State | None) -> Script:
    """Write the one script of a transition; it answers nothing if a guard does not hold.

    Raises:
        ValueError: the table knows no such step.
    """
    rule = TRANSITIONS[event]
    for state in (to, to_if_cancelled):
        if state is not None and state not in rule.to:
            raise ValueError(f"{event} does not lead to {state}")
    effects = _effects(event, to)
    if to_if_cancelled is not None:
        # Decided inside the write: a cancel that was asked for a moment ago still counts.
        effects = f"if r.cancel_requested_at then {_effects(event, to_if_cancelled)} else {effects} end"
    whole = event in ANSWERED_WHOLE
    return Script(
        "".join(
            (
                PRELUDE,
                _PLACE,
                "local row = KEYS[1]",
                _LOAD,
                _GIVEN,
                _BEFORE,
                f"if not ({may_start(rule)}) then return false end\n",
                effects,
                _WRITE,
                "" if event in UNTOLD else _TELL % event.value,
                "return redis.call('HGETALL', row)"
                if whole
                else "return {r.state, r.cancel_requested_at and '1' or '0'}",
            )
        )
    )


_CLAIMED = {
    "attempt": "r.attempt + 1",
    "owner": "owner",
    "lease_until": "later(lease_s)",
    "started_at": "now",
    "note": "nil",
    "progress": "nil",
    "message": "nil",
    "nodes_done": "nil",
    "nodes_total": "nil",
}
_MAY_EXPIRE = """
if begun then put('expires_at', nil)
elseif r.expires_at then redis.call('ZADD', P .. 'expiring', num(r.expires_at), id) end -- forgotten while it ran
"""
_ERRED = {"errors": "r.errors + 1", "error": "err", "reason": "reason"}
_CRASHED = {"crashes": "r.crashes + 1", "reason": "reason"}
_EFFECTS: Mapping[Event, Mapping[str, str]] = {
    Event.CLAIM: _CLAIMED,
    Event.BEAT: {"lease_until": "later(lease_s)"},
    Event.SUCCEED: {"result": "result", "reason": "nil"},
    Event.RETRY: _ERRED,
    Event.FAIL: _ERRED,
    Event.RELEASE: {},
    Event.RESCUE: _CRASHED,
    Event.CRASH: _CRASHED,
    Event.PUBLISH: {"published_at": "now", "publishes": "r.publishes + 1", "publish_due_at": "later(delay_s)"},
    Event.CANCEL: {},
    Event.REQUEST_CANCEL: {"cancel_requested_at": "r.cancel_requested_at or now"},
    Event.STOP: {},
    Event.HOLD: {"held": "held"},
    Event.ADMIT: {"held": "nil", "published_at": "nil", "publish_due_at": "math.max(now, r.scheduled_at)"},
    Event.WAKE: {"scheduled_at": "now", "publish_due_at": "now", "published_at": "nil", "note": "nil"},
    Event.EXPIRE: {"error": "err", "reason": "reason"},
}


def _effects(event: Event, to: State) -> str:
    # The same in Lua as in `sql.py`.
    changes = {"state": f"'{to}'", **_EFFECTS[event]}
    if to is State.QUEUED and event not in STAYING:
        changes |= {"scheduled_at": "later(delay_s)", "publish_due_at": "later(delay_s)", "published_at": "nil"}
        if event is Event.RELEASE:
            changes |= {"note": "note", "held": "held"}
    if to.final:
        changes["finished_at"] = "now"
    if to is State.CANCELLED:
        changes["reason"] = "nil"
    puts = [f"put('{column}', {value})" for column, value in changes.items()]
    if to is State.QUEUED and event not in STAYING:
        puts.append(_MAY_EXPIRE if event is Event.RELEASE else "put('expires_at', nil)")
    if event in (Event.RESCUE, Event.CRASH):
        puts.append("if err then put('error', err) end")  # the last error that was told stays
    return " ".join(puts)


def insert() -> Script:
    """Write T1 for many intents: ARGV is the prefix, the time, the grace, whether they are pushed, the intents, limits.

    Answers the time, and for each intent 1, 2 (it took another one's place) or the row that stands in its way; or
    ``full``, the queue whose limit would not hold, and how many jobs were to go there; or ``taken``, which intent was
    to raise, its key, and the id and the state of the job that has it.
    """
    return Script(f"""{PRELUDE}
local grace_s, pushed = tonumber(ARGV[3]), ARGV[4] == '1'
{_PLACE}
local function fixed(w)
  {"  ".join(rule for name, rule in UNIQUE.items() if name != "key")}
end
local function in_the_way(w)
  if w.unique then
    local key, states, period_s = w.unique[1], w.unique[2], w.unique[3]
    for _, h in ipairs(redis.call('ZREVRANGE', P .. 'unique:' .. key, 0, -1)) do
      local v = redis.call('HMGET', P .. 'job:' .. h, 'state', 'created_at')
      if v[1] and states[v[1]] and (not period_s or (tonumber(v[2]) or 0) > now - period_s) then return h end
    end
  end
  {UNIQUE.get("key", "")}
end
local function give_way(id)
  local row, attempt, publishes = P .. 'job:' .. id, nil, nil
  local owner, reason, err, result, note, held, lease_s, delay_s = nil, '{REPLACED}', nil, nil, nil, nil, 0, 0
  {_LOAD}{_BEFORE}
  local keys = redis.call('HMGET', row, 'key', 'unique_key')
  local event
  if {may_start(TRANSITIONS[Event.CANCEL])} then
    event = '{Event.CANCEL}' {_effects(Event.CANCEL, State.CANCELLED)}
  elseif {may_start(TRANSITIONS[Event.REQUEST_CANCEL])} then
    event = '{Event.REQUEST_CANCEL}' {_effects(Event.REQUEST_CANCEL, State.RUNNING)}
  end
  {_WRITE}
  if event then {_TELL % "' .. event .. '"} end
  if keys[1] then
    if redis.call('HGET', P .. 'live', keys[1]) == id then redis.call('HDEL', P .. 'live', keys[1]) end
    redis.call('ZREM', P .. 'key:' .. keys[1], id)
  end
  if keys[2] then redis.call('ZREM', P .. 'unique:' .. keys[2], id) end
  redis.call('HDEL', row, 'key', 'unique_key')
end
local answers, wanted = {{num(now)}}, {{}}
for n, given in ipairs(cmsgpack.unpack(ARGV[5])) do
  wanted[n] = {{id = given[1], at = given[2], delay_s = given[3], queue = given[4], name = given[5], key = given[6],
    tick_key = given[7], parent_id = given[8], fields = given[9], held = given[10], expires_at = given[11],
    expires_s = given[12], unique = given[13], on_conflict = given[14]}}
end
local taking = {{}}
for n, w in ipairs(wanted) do
  local key = w.unique and w.unique[1] or w.key
  if w.on_conflict == 'raise' and redis.call('EXISTS', P .. 'job:' .. w.id) == 0 then
    local h = in_the_way(w) or (key and taking[key])
    if h then return {{'taken', n, key, h, redis.call('HGET', P .. 'job:' .. h, 'state') or 'queued'}} end
  end
  if key then taking[key] = w.id end
end
if ARGV[6] ~= '' then
  local limits, coming, ids, keys, ticks = cmsgpack.unpack(ARGV[6]), {{}}, {{}}, {{}}, {{}}
  for _, w in ipairs(wanted) do
    local again = ids[w.id] or (w.key and keys[w.key]) or (w.tick_key and ticks[w.tick_key])
    local way = in_the_way(w)
    local v = way and redis.call('HMGET', P .. 'job:' .. way, 'state', 'queue') or {{}}
    local instead = way and (w.on_conflict ~= 'replace' or (v[1] == 'queued' and v[2] == w.queue))
    if not again and not instead and not fixed(w) then
      coming[w.queue] = (coming[w.queue] or 0) + 1
      ids[w.id] = true
      if w.key then keys[w.key] = true end
      if w.tick_key then ticks[w.tick_key] = true end
    end
  end
  for queue, limit in pairs(limits) do
    local queued = coming[queue] or 0
    for _, place in ipairs({{':wait', ':retry', ':blocked', ':held'}}) do
      queued = queued + redis.call('ZCARD', P .. 'queue:' .. queue .. place)
    end
    if coming[queue] and queued > limit then return {{'full', queue, coming[queue]}} end
  end
end
for _, w in ipairs(wanted) do
  local held_by, replaced = fixed(w), false
  if not held_by then
    held_by = in_the_way(w)
    while held_by and w.on_conflict == 'replace' do -- one by its unique key, one by its key: each once
      give_way(held_by)
      held_by, replaced = in_the_way(w), true
    end
  end
  if held_by then
    answers[#answers + 1] = redis.call('HGETALL', P .. 'job:' .. held_by)
  else
    local due, f = w.at or later(w.delay_s), w.fields
    local is_later = due > now
    if not is_later then due = now end
    local publish_due_at = due
    local function put(name, value) f[#f + 1] = name f[#f + 1] = value end
    put('state', 'queued')
    put('created_at', num(now))
    put('scheduled_at', num(due))
    if w.held then put('held', w.held) end
    local expires_at = w.expires_s and math.min(due + w.expires_s, {LAST_INSTANT!r}) or w.expires_at
    if expires_at then
      put('expires_at', num(expires_at))
      redis.call('ZADD', P .. 'expiring', num(expires_at), w.id)
    end
    if pushed and not is_later and not w.held then
      publish_due_at = later(grace_s)
      put('published_at', num(now))
      put('publishes', '1')
    end
    put('publish_due_at', num(publish_due_at))
    redis.call('HSET', P .. 'job:' .. w.id, unpack(f))
    redis.call('ZADD', P .. 'state:queued', 0, w.id)
    redis.call('ZADD', P .. 'created', num(now), w.id)
    redis.call('ZADD', P .. 'name:' .. w.name, 0, w.id)
    redis.call('ZADD', P .. 'queue:' .. w.queue .. (w.held and ':held' or ':wait'), num(due), w.id)
    if not w.held then redis.call('ZADD', P .. 'due', num(publish_due_at), w.id) end
    if w.unique then redis.call('ZADD', P .. 'unique:' .. w.unique[1], num(now), w.id) end
    redis.call('SADD', P .. 'names', w.name)
    redis.call('SADD', P .. 'queues', w.queue)
    if w.key then
      redis.call('HSET', P .. 'live', w.key, w.id)
      redis.call('ZADD', P .. 'key:' .. w.key, 0, w.id)
    end
    if w.tick_key then redis.call('HSET', P .. 'ticks', w.tick_key, w.id) end
    if w.parent_id then redis.call('ZADD', P .. 'parent:' .. w.parent_id, 0, w.id) end
    answers[#answers + 1] = replaced and 2 or 1
  end
end
return answers""")


def purge() -> Script:
    """Write T12: ARGV is the prefix, the time, the state, the age and the limit; answers the ids that are gone."""
    rule = TRANSITIONS[Event.PURGE]
    until = "'(' .. num(now - older_than_s)" if Guard.OLD in rule.guards else "'+inf'"
    return Script(f"""{PRELUDE}
local state, older_than_s, limit = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local gone = {{}}
local found = P .. 'finished:' .. state
for _, id in ipairs(redis.call('ZRANGEBYSCORE', found, '-inf', {until}, 'LIMIT', 0, limit)) do
  local row = P .. 'job:' .. id
  local v = redis.call('HMGET', row, 'state', 'finished_at', 'name', 'key', 'tick_key', 'parent_id', 'unique_key')
  local r = {{state = v[1], finished_at = v[2] and (tonumber(v[2]) or 0)}}
  if r.state == state and {may_start(rule)} then
    redis.call('UNLINK', row, row .. ':history', row .. ':logs', row .. ':nodes')
    redis.call('ZREM', found, id)
    redis.call('ZREM', P .. 'state:' .. state, id)
    redis.call('ZREM', P .. 'created', id)
    redis.call('ZREM', P .. 'name:' .. v[3], id)
    if redis.call('EXISTS', P .. 'name:' .. v[3]) == 0 then redis.call('SREM', P .. 'names', v[3]) end
    if v[4] then
      redis.call('ZREM', P .. 'key:' .. v[4], id)
      if redis.call('HGET', P .. 'live', v[4]) == id then redis.call('HDEL', P .. 'live', v[4]) end
    end
    if v[5] and redis.call('HGET', P .. 'ticks', v[5]) == id then redis.call('HDEL', P .. 'ticks', v[5]) end
    if v[6] then redis.call('ZREM', P .. 'parent:' .. v[6], id) end
    if v[7] then redis.call('ZREM', P .. 'unique:' .. v[7], id) end
    gone[#gone + 1] = id
  end
end
return gone""")
