"""`metacore jobs`: work of addons that nobody waits for, in all organizations, and trying failed jobs again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from metacore.addons.jobs import view
from metacore.cli import output
from metacore.cli.owner_database import open_owner_database
from metacore.ids import parse_uuid

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Show jobs of addons, and try failed ones again.")

Data = Annotated[
    Path | None,
    typer.Option(help="Data folder of a running `metacore dev`; default: METACORE_OWNER_DATABASE_URL, or its own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    status: Annotated[str, typer.Option(help=f"One of {', '.join(view.STATUSES)}; default: all.")] = "",
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(view.KINDS)}; default: all.")] = "",
    addon: Annotated[str, typer.Option(help="Key of one addon; default: all.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=view.MAX_PER_PAGE)] = 50,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs, newest first."""
    filters = {"status": status, "kind": kind, "addon": addon}
    page = asyncio.run(_list(data, filters, limit))
    if as_json:
        output.show_json({"jobs": page.rows, "total": page.total})
        return
    output.show_rows([_line(row) for row in page.rows])
    if page.total > len(page.rows):
        output.note(f"{page.total - len(page.rows)} more; --limit shows up to {view.MAX_PER_PAGE}")
    elif not page.rows:
        output.note("there is none")


@app.command()
def retry(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of failed jobs.")],
    data: Data = None,
) -> None:
    """Try failed jobs again at once, with all their tries before them."""
    for row in asyncio.run(_retry(data, ids)):
        output.say(f"{row['id']} {row['addon_key']} {row['kind']} {row['name']}: {row['status']}")


async def _list(data: Path | None, filters: dict[str, str], limit: int) -> view.Page:
    owner = await open_owner_database(data)
    try:
        return await view.jobs_of(owner, None, filters, per_page=limit)
    finally:
        await owner.close()


async def _retry(data: Path | None, ids: list[str]) -> list[dict[str, Any]]:
    wanted = [parse_uuid(text) for text in ids]
    owner = await open_owner_database(data)
    try:
        return [await view.try_again(owner, None, job_id) for job_id in wanted]
    finally:
        await owner.close()


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    tries = f"{row['attempts']}/{row['max_attempts']}"
    what = f"{row['addon_key']} {row['kind']} {row['name']}"
    return (
        row["id"],
        row["status"],
        what,
        row["run_at"],
        tries,
        row["last_error"].splitlines()[0][:80] if row["last_error"] else "",
    )
