"""``[engines.spool]``: what can be set."""

import msgspec


class SpoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    poll_s: float = 0.02
    """How often an idle worker looks for messages."""
    mirror_failures: bool = True
    """Leave a file in ``failed/`` for each attempt that failed, with the first line of its error."""
    keep_failed: int = 100
    """How many of those files stay."""
