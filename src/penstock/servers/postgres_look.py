"""What may be wrong with a Postgres that holds rows of a ledger or messages of an engine."""

from __future__ import annotations

import psycopg
from psycopg import conninfo

from penstock.core.base import Finding
from penstock.servers.findings import PATIENCE_S, clock, unreachable, well

_ASK = """
SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), pg_is_in_recovery(), current_setting('transaction_read_only'),
       extract(epoch FROM clock_timestamp())::float8
"""
_LOST = {
    "fsync": "after a power cut the database may be damaged",
    "full_page_writes": "after a power cut the database may be damaged",
    "synchronous_commit": "after a crash the newest commits are lost, without damage",
}


def look(url: str, *packages: str) -> list[Finding]:
    """Look at the server over a connection of its own. Answers within some seconds and raises nothing."""
    try:
        patient = conninfo.make_conninfo(
            url, connect_timeout=int(PATIENCE_S), tcp_user_timeout=int(PATIENCE_S * 1000), application_name="penstock"
        )
        with psycopg.connect(patient, autocommit=True) as connection:
            row = connection.execute(_ASK).fetchone()
    except psycopg.Error as error:
        return [unreachable(error, "is Postgres up and reachable, and is the URL right?")]
    assert row is not None  # noqa: S101 - a query without a table has one row
    version, *settings, recovering, read_only, seconds = row
    found = [well(f"PostgreSQL {version.partition(' ')[0]}", *packages)]
    for (name, lost), value in zip(_LOST.items(), settings, strict=True):
        if value == "off":
            hint = f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()"
            found.append(Finding(name=name, level="warning", told=f"{name} is off: {lost}", hint=hint))
    if recovering or read_only == "on":
        told = "this server is a standby, or read-only: it takes no writes"
        hint = "name the primary; with several hosts in the URL, add target_session_attrs=read-write"
        found.append(Finding(name="role", level="error", told=told, hint=hint))
    return found + clock(seconds)
