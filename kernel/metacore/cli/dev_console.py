"""How `metacore dev` talks: a panel and colours on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


class DevConsole:
    """Every line begins with `metacore:` so that it can be told from the kernel's own."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def step(self, text: str) -> None:
        self._line("cyan", text)

    def good(self, text: str) -> None:
        self._line("green", text)

    def bad(self, text: str) -> None:
        self._line("bold red", text)

    def panel(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        if not self._console.is_terminal:
            for name, value in rows:
                self.step(f"{name}: {value}")
            return
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
        self._console.print(Panel(table, title=title, title_align="left", border_style="green", expand=False))

    def _line(self, style: str, text: str) -> None:
        self._console.print(Text.assemble(("metacore: ", style), text))
        self._console.file.flush()
