"""The statements by which a SQL ledger keeps records."""

from __future__ import annotations

GET = "SELECT kind, name, version, body, due_at FROM records WHERE kind = :kind AND name = :name"
ALL = "SELECT kind, name, version, body, due_at FROM records WHERE kind = :kind ORDER BY name"
DUE = (
    "SELECT kind, name, version, body, due_at FROM records WHERE kind = :kind AND due_at <= :now "
    "ORDER BY due_at, name LIMIT :limit"
)
NEXT = "SELECT min(due_at) FROM records WHERE kind = :kind AND due_at IS NOT NULL"
# A new record begins where no older one of its name can have ended: nobody has seen that version before.
MAKE = (
    "INSERT INTO records (kind, name, version, body, due_at) "
    "VALUES (:kind, :name, CAST(:now * 1000000 AS BIGINT), :body, :due) ON CONFLICT DO NOTHING RETURNING version"
)
CHANGE = (
    "UPDATE records SET version = version + 1, body = :body, due_at = :due "
    "WHERE kind = :kind AND name = :name AND version = :seen RETURNING version"
)
DROP = "DELETE FROM records WHERE kind = :kind AND name = :name AND version = :seen RETURNING 1"
