"""What came out: a table for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line. `ratio` is ours against the yardstick, more is better; `at_least` is a goal for it, `at_most` one for
    `ours` itself. `failed` counts what did not work."""

    group: str
    what: str
    ours: float
    unit: str
    against: str = ""
    yardstick: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    failed: int = 0

    @property
    def met(self) -> bool | None:
        """None when the page has no goal for it."""
        if self.at_most is not None:
            return self.ours <= self.at_most
        if self.at_least is not None and self.ratio is not None:
            return self.ratio >= self.at_least
        return None

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {self.unit}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else ""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "ours", "against", "", "ratio", "goal", "met"):
        table.add_column(name, justify="right" if name in ("ours", "ratio", "goal") else "left", no_wrap=True)
    table.columns[3].justify = "right"
    last = ""
    for row in rows:
        if row.group != last:
            table.add_row(f"[bold]{row.group}[/bold]")
            last = row.group
        met = {True: "[green]yes[/green]", False: "[yellow]no[/yellow]", None: ""}[row.met]
        if row.failed:
            met = f"[red]{row.failed} failed[/red]"
        table.add_row(
            f"  {row.what}",
            _amount(row.ours, row.unit),
            row.against,
            _amount(row.yardstick, row.unit),
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            row.goal,
            met,
        )
    console.print(table)


def write_json(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    document = {**about, "rows": [row.as_json() for row in rows]}
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{shown}{unit}" if unit.startswith("/") else f"{shown} {unit}"
