"""``backends``, ``doctor``, ``config show``: how this machine and this project are set up."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from penstock.cli import show
from penstock.cli.failures import CONFIG, OK, UNREACHABLE
from penstock.cli.session import Session

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}
_SUPPORT = {"native": ("●", "green"), "emulated": ("◐", "yellow"), "absent": ("–", "dim")}
_UNREACHABLE = frozenset({"ledger", "engine"})


def backends(*, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """List the engines: which are installed, and what each of their transports can do."""
    from penstock import health
    from penstock.core.capabilities import FLAGS

    found = health.backends()
    if session.json:
        for backend in found:
            session.document({"schema": "penstock.backend/1", **_fields(backend)})
        return OK
    if not session.pretty:
        session.rows(
            ("scheme", "installed", *FLAGS),
            (
                [b.scheme, "yes" if b.installed else "no", *(b.capabilities.get(flag, "") for flag in FLAGS)]
                for b in found
            ),
        )
        return OK
    from rich.text import Text

    rows: list[list[Text | str]] = []
    for backend in found:
        cells: list[Text | str] = [Text(backend.scheme, style="bold" if backend.installed else "dim")]
        for flag in FLAGS:
            sign, style = _SUPPORT.get(backend.capabilities.get(flag, ""), ("", ""))
            cells.append(Text(sign, style=style))
        rows.append([*cells, Text(backend.hint, style="dim")])
    width = session.console.width
    session.console.print(show.table(("backend", *FLAGS, ""), rows, width=width, gives=[len(FLAGS) + 1]))
    signs = (("\n●", "green"), " the engine does it   ", ("◐", "yellow"), " penstock does it above the engine   ")
    session.say(Text.assemble(*signs, ("–", "dim"), " not to be had"))
    return OK


def doctor(*, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """Check everything that jobs need here: config, ledger, engine, results, tasks, workers.

    The exit code is 4 if the ledger or the engine cannot be reached, 3 if something else is wrong. Warnings do not
    count.
    """
    from penstock import health

    queue = session.look()
    settings = session.settings
    place = str(settings.project_file or settings.flowerpower_root or "no file found; defaults only")
    found = [health.Check(area="about", name="config", level="ok", told=place), *health.checks(queue)]
    if session.json:
        for check in found:
            session.document({"schema": "penstock.check/1", **_fields(check)})
    elif session.pretty:
        _print_checks(session, found)
    else:
        session.rows(("level", "name", "told", "hint"), ([c.level, c.name, c.told, c.hint] for c in found))
    broken = {check.area for check in found if check.level == "error"}
    if broken & _UNREACHABLE:
        return UNREACHABLE
    return CONFIG if broken else OK


def _print_checks(session: Session, found: list[Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for check in found:
        sign, style = _SIGNS[check.level]
        told = Text(check.told, style="" if check.level == "ok" else style)
        if check.hint:
            told.append(f"\nnext: {check.hint}", style="dim")
        table.add_row(Text(sign, style=style), Text(check.name, style="bold"), told)
    session.console.print(table)


def show_config(*, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """Print every setting with its value and where it came from. Secrets are masked."""
    shown = session.settings.shown()
    if session.json:
        for row in shown:
            session.document({"schema": "penstock.setting/1", **_setting(row)})
    elif session.pretty:
        from rich.text import Text

        lines: list[list[Text | str]] = []
        for row in shown:
            setting = _setting(row)
            style = "dim" if setting["origin"] == "default" else ""
            lines.append([
                Text(setting["key"], style=style or "bold"),
                Text(_told(setting["value"]), style=style),
                Text(setting["origin"], style=style or "cyan"),
            ])  # fmt: skip
        width = session.console.width
        session.console.print(show.table(("setting", "value", "from"), lines, width=width, gives=[1, 2]))
    else:
        rows = (_setting(row) for row in shown)
        session.rows(("setting", "value", "origin"), ([row["key"], _told(row["value"]), row["origin"]] for row in rows))
    return OK


def _setting(row: Any) -> dict[str, Any]:
    key, value, origin = row
    return {"key": key, "value": value, "origin": origin}


def _told(value: Any) -> str:
    if isinstance(value, str):
        return value
    import msgspec

    return msgspec.json.encode(value).decode()


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
