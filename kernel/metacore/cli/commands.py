"""The table of commands. A command's room is imported when the command runs, so that `metacore --help` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

LAZY: Mapping[str, tuple[str, str, str]] = {
    "dev": ("metacore.cli.dev", "dev", "Run PostgreSQL, the addons of a folder and the kernel on this machine."),
    "serve": ("metacore.cli.serve", "serve", "Serve the kernel over HTTP."),
    "operator": ("metacore.cli.operator", "operator", "Reconcile Addon resources of a cluster."),
    "migrate": ("metacore.cli.migrate", "migrate", "Bring the kernel's own tables up to date."),
    "bundle": ("metacore.cli.bundle", "app", "Make, check, sign and look into bundles."),
    "keys": ("metacore.cli.keys", "app", "Make and show signing keys."),
    "plan": ("metacore.cli.plan", "plan", "Show what installing a bundle would do."),
    "addons": (
        "metacore.cli.addons",
        "app",
        "Show what is installed, and hand an addon over to another Addon.",
    ),
    "jobs": ("metacore.cli.jobs", "app", "Show jobs of addons, and try failed ones again."),
    "enforce": ("metacore.cli.enforce", "app", "Show who is in which mode, and what enforce would refuse."),
}
"""Name: module, the function or Typer app in it, and its line in the help. One whose module does not exist is left out,
so that a build without a room has no command for it."""


class LazyCommand(TyperCommand):
    """Stands in for a command until it is called; knows only its name and its line in the help."""

    def __init__(self, name: str, module: str, attribute: str, help: str) -> None:
        super().__init__(name=name, help=help, short_help=help, callback=None)
        self._module = module
        self._attribute = attribute

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> Any:
        """The real command, with its own parameters and help."""
        found = getattr(import_module(self._module), self._attribute)
        if isinstance(found, typer.Typer):
            return get_command(found)
        single = typer.Typer(add_completion=False)
        single.command(self.name)(found)
        return get_command(single)


class LazyGroup(TyperGroup):
    """The commands of `LAZY` whose module exists."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, (module, _, _) in LAZY.items() if find_spec(module) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        return LazyCommand(cmd_name, *LAZY[cmd_name])


def build_command() -> Any:
    """The whole command line, ready to run with `.main(args=…)`."""
    app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_metacore)
    return get_command(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from metacore import __version__

        print(f"metacore {__version__}")
        raise typer.Exit


def _metacore(
    version: bool = typer.Option(
        False, "--version", help="Show the version and leave.", callback=_show_version, is_eager=True
    ),
) -> None:
    """An addon control plane: declare addons, get tenant-safe live APIs.

    Exit codes: 0 done, 1 refused, 2 called wrongly, 3 something that is needed is not there.
    """
