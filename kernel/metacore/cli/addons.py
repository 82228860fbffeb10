"""`metacore addons`: what is installed and who owns it, and handing an addon over to another Addon resource."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import func, select

from metacore.cli import output
from metacore.cli.owner_database import open_owner_database
from metacore.installer.adoption import adopt as hand_over
from metacore.orm.tables import Addon, Installation

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Show what is installed, and hand addons over.")

Data = Annotated[
    Path | None,
    typer.Option(help="Data folder of a running `metacore dev`; default: METACORE_OWNER_DATABASE_URL, or its own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(data: Data = None, as_json: AsJson = False) -> None:
    """Show every addon: its version, in how many organizations it is, and the uid of the Addon that owns it."""
    rows = asyncio.run(_list(data))
    if as_json:
        output.show_json({"addons": rows})
    elif not rows:
        output.note("no addon is installed")
    else:
        head = ("ADDON", "VERSION", "ORGANIZATIONS", "MODE", "OWNER", "FENCED")
        lines = [
            (
                row["key"],
                row["version"] or "-",
                str(row["organizations"]),
                row["mode"],
                row["owner_uid"] or "API or host",
                row["fenced_reason"] or "no",
            )
            for row in rows
        ]
        output.show_rows([head, *lines])


@app.command()
def adopt(
    key: Annotated[str, typer.Argument(help="Key of the addon.")],
    uid: Annotated[str, typer.Option(help="metadata.uid of the Addon that shall own it.")],
    holder: Annotated[str | None, typer.Option("--from", help="Only while this uid owns it.")] = None,
    data: Data = None,
) -> None:
    """Let another Addon resource own an addon, as after a cluster was rebuilt. The addon itself stays as it is."""
    before = asyncio.run(_adopt(data, key, uid.strip(), holder))
    output.say(f"{key} is owned by {uid.strip()} now; before it was {before or 'the API or a host'}")


async def _list(data: Path | None) -> list[dict[str, Any]]:
    count = select(func.count()).where(Installation.addon_key == Addon.key).scalar_subquery()
    asked = select(
        Addon.key, Addon.version, Addon.mode, Addon.owner_uid, Addon.fenced_reason, count.label("organizations")
    ).order_by(Addon.key)
    owner = await open_owner_database(data)
    try:
        async with owner.transaction(None) as connection:
            return [dict(row) for row in (await connection.execute(asked)).mappings()]
    finally:
        await owner.close()


async def _adopt(data: Path | None, key: str, uid: str, holder: str | None) -> str:
    owner = await open_owner_database(data)
    try:
        return await hand_over(owner, key, uid, holder=holder)
    finally:
        await owner.close()
