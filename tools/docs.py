"""Write the pages that are made from the source; with ``--check`` only say whether they are as they should be."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

from penstock import registry
from penstock.core import capabilities
from penstock.core.capabilities import FEATURES, FLAGS, Capabilities
from penstock.core.hookspecs import GROUP
from penstock.job import lifecycle
from penstock.job.lifecycle import TRANSITIONS
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES

ROOT = Path(__file__).parents[1]
MADE = "<!-- made by `make docs`: change the source it names, not this page -->"
START, END = "<!-- capabilities: made by `make docs` -->", "<!-- end of capabilities -->"


_ABOVE = "Done by penstock above the engines, and so in the same way on each:"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), width=118, break_on_hyphens=False)


def _flag_texts() -> dict[str, str]:
    """Read the docstrings below the fields of `Capabilities`, which Python itself forgets."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Capabilities)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


_SPELLINGS = frozenset({"amqps", "tls", "postgresql", *REDIS_SCHEMES} - {"redis"})
"""Other ways to write a transport: with TLS, a socket, sentinels. They can what the plain one can."""


def _transports() -> dict[str, Capabilities]:
    """Return the capabilities of every transport of our own backends, by its plain scheme."""
    ours = sorted(p.name for p in entry_points(group=GROUP) if p.dist is not None and p.dist.name == "penstock")
    return {
        scheme: found.capabilities_of(scheme)
        for name in ours
        for found in [registry.backend_class(name)]
        for scheme in found.schemes
        if scheme.partition("+")[2] not in _SPELLINGS
    }


def capability_table() -> str:
    """Draw what each transport can do."""
    rows = [
        [f"`{scheme}://`", *(str(getattr(found, flag)) for flag in FLAGS)] for scheme, found in _transports().items()
    ]
    return _table(["transport", *FLAGS], rows)


def feature_table() -> str:
    """Draw what is done above the engines; transports on which all of it is had alike share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for scheme, found in _transports().items():
        columns.setdefault(tuple(str(feature.on(found)) for feature in FEATURES), []).append(f"`{scheme}://`")
    most = max(columns.values(), key=len)
    apart = [scheme for schemes in columns.values() if schemes is not most for scheme in schemes]
    heads = [f"all but {', '.join(apart)}" if schemes is most else ", ".join(schemes) for schemes in columns.values()]
    rows = [
        [feature.name, feature.said, *(cells[place] for cells in columns)] for place, feature in enumerate(FEATURES)
    ]
    return _table(["capability", "asked for with", *heads], rows)


def capabilities_page() -> str:
    """Make ``dev_docs/capabilities.md``."""
    support = inspect.getsource(capabilities.Support)
    words = [
        [f"`{line.split('=')[1].strip().strip(chr(34))}`", text.strip().strip('"')]
        for line, text in zip(support.splitlines(), support.splitlines()[1:], strict=False)
        if " = " in line
    ]
    flags = [[f"`{flag}`", " ".join(text.split())] for flag, text in _flag_texts().items()]
    told = _paragraph("""
        What a transport can do, from the classes in `src/penstock/backends`. Each flag is read in one place,
        `gateway.py`, and each has tests in the conformance suite that also say what holds where it is absent.
        Other spellings (TLS, sockets, sentinels, clusters) are in [servers.md](servers.md).
    """)
    parts = [
        "# Capabilities",
        MADE,
        told,
        capability_table(),
        _table(["flag", "meaning"], flags),
        _paragraph(_ABOVE),
        feature_table(),
        _table(["value", "meaning"], words),
    ]
    return "\n\n".join(parts)


def lifecycle_page() -> str:
    """Make ``dev_docs/lifecycle.md``."""
    rows = [
        [
            rule.number,
            event.value,
            ", ".join(rule.start) or "–",
            ", ".join(rule.to) or "gone",
            ", ".join(rule.guards) or "–",
            rule.who,
        ]
        for event, rule in TRANSITIONS.items()
    ]
    told = _paragraph("""
        From `TRANSITIONS` in `src/penstock/job/lifecycle.py`, the one place where a next state is decided. A
        transition is written only while its start state and all its guards hold, in one statement of the ledger.
    """)
    targets = _paragraph("""
        Where a transition has more than one target, the job's row decides within the statement: `cancelled` takes the
        place of `queued` or `failed` when a cancel was asked for, and `failed` that of `queued` when the budget is
        spent.
    """)
    shown = ", ".join(f"`{state}`" for state in lifecycle.SHOWN_STATES)
    states = _paragraph(f"""
        People are shown these states, of which the last three are final: {shown}. Those that are not stored are
        derived from times and requests when they are asked for (`shown_state`).
    """)
    parts = [
        "# The life of a job",
        MADE,
        told,
        f"```mermaid\n{lifecycle.mermaid()}\n```",
        _table(["number", "event", "from", "to", "guards", "who"], rows),
        targets,
        states,
    ]
    return "\n\n".join(parts)


def _readme(text: str) -> str:
    before, _, rest = text.partition(START)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"README.md lacks the markers {START} and {END}")
    return f"{before}{START}\n\n{capability_table()}\n\n{_ABOVE}\n\n{feature_table()}\n\n{END}{after}"


def pages() -> dict[Path, str]:
    """Return every generated page as it should be."""
    readme = ROOT / "README.md"
    return {
        ROOT / "dev_docs" / "lifecycle.md": lifecycle_page() + "\n",
        ROOT / "dev_docs" / "capabilities.md": capabilities_page() + "\n",
        readme: _readme(readme.read_text()),
    }


def main() -> int:
    """Write the pages, or compare them; 1 when one is out of date."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date; run: make docs")
        else:
            path.write_text(pages()[path])
            print(f"wrote {path.relative_to(ROOT)}")
    return int("--check" in sys.argv[1:] and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
