"""`metacore enforce`: who is in which mode, what enforce would refuse, and what would make an addon clean."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from metacore.bundle import paths
from metacore.bundle.archive import read_archive
from metacore.capabilities.grants import Grants
from metacore.capabilities.standing import AddonStanding, Standing, read_standing
from metacore.capabilities.suggest import Suggestion, refused_until_granted, suggest
from metacore.capabilities.violations import ViolationFilter, ViolationSum, merge_forbidden, sum_violations
from metacore.capabilities.window import parse_since
from metacore.cli import enforce_output, output
from metacore.cli.manifest_patch import add_capabilities, as_entries, declared_in, manifest_in
from metacore.cli.owner_database import open_owner_database
from metacore.db.database import Database
from metacore.errors import NotFound
from metacore.manifest.model import Capability
from metacore.orm.tables import Bundle

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Who is in which mode, and what enforce would refuse."
)

Data = Annotated[
    Path | None,
    typer.Option(help="Data folder of a running `metacore dev`; default: METACORE_OWNER_DATABASE_URL, or its own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Since = Annotated[str, typer.Option(help="A span such as 90m, 24h or 7d, or an instant such as 2026-03-01T09:00Z.")]


@app.command()
def status(data: Data = None, as_json: AsJson = False) -> None:
    """Show the mode of every live kernel and of every addon."""
    standing, sums = asyncio.run(_read(data, ViolationFilter(_since("24h"))))
    if as_json:
        output.show_json(enforce_output.status_json(standing, sums))
    else:
        enforce_output.show_status(standing, sums)


@app.command()
def report(
    addon: Annotated[str, typer.Argument(help="Key of one addon; default: all.")] = "",
    since: Since = "24h",
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when enforce would refuse something.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what enforce would have refused, and what it did refuse, since then."""
    begin = _since(since)
    standing, sums = asyncio.run(_read(data, ViolationFilter(begin, addon_key=addon)))
    if addon and not sums:
        _one(standing, addon)
    grants = {item.key: Grants(item.key, item.grants) for item in standing.addons}
    lines = [enforce_output.ReportLine(item, _granted_now(grants.get(item.addon_key), item)) for item in sums]
    if as_json:
        output.show_json(enforce_output.report_json(begin, lines))
    else:
        enforce_output.show_report(since, lines)
    if check and any(not line.granted_now for line in lines):
        raise typer.Exit(1)


@app.command("suggest")
def suggest_(
    addon: Annotated[str, typer.Argument(help="Key of the addon.")],
    since: Since = "30d",
    write: Annotated[
        Path | None, typer.Option(exists=True, help="Manifest, or the folder that holds it, to add them to.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show the smallest change of an addon's manifest that would make it clean; --write makes it."""
    wanted = ViolationFilter(_since(since), addon_key=addon)
    standing, sums, declared = asyncio.run(_read_one(data, wanted))
    place = manifest_in(write) if write is not None else None
    if place is not None:
        # What counts is the manifest that will be shipped, not the one that is installed.
        declared = declared_in(place, addon)
    found = suggest(addon, sums, _one(standing, addon).grants, declared)
    if place is not None and found.add:
        add_capabilities(place, found.add)
    if as_json:
        output.show_json(_suggestion_json(addon, found, declared, place))
    else:
        enforce_output.show_suggestion(addon, since, found, place)


async def _read(data: Path | None, wanted: ViolationFilter) -> tuple[Standing, Sequence[ViolationSum]]:
    database = await open_owner_database(data)
    try:
        return await read_standing(database), merge_forbidden(await sum_violations(database, wanted))
    finally:
        await database.close()


async def _read_one(
    data: Path | None, wanted: ViolationFilter
) -> tuple[Standing, Sequence[ViolationSum], tuple[Capability, ...]]:
    database = await open_owner_database(data)
    try:
        standing = await read_standing(database)
        declared = await _declared(database, _one(standing, wanted.addon_key))
        return standing, await sum_violations(database, wanted), declared
    finally:
        await database.close()


async def _declared(database: Database, addon: AddonStanding) -> tuple[Capability, ...]:
    """What the installed bundle asks for; an addon that is linked into a host has none."""
    async with database.transaction(None) as connection:
        content = await connection.scalar(
            Bundle.__table__.select().with_only_columns(Bundle.content).where(Bundle.digest == addon.digest)
        )
    if content is None:
        return ()
    document = json.loads((await asyncio.to_thread(read_archive, content))[paths.MANIFEST])
    return tuple(
        Capability(kind=str(item["kind"]), target=str(item["target"]), reason=str(item.get("reason") or ""))
        for item in document.get("capabilities") or ()
    )


def _one(standing: Standing, addon: str) -> AddonStanding:
    for item in standing.addons:
        if item.key == addon:
            return item
    known = ", ".join(item.key for item in standing.addons) or "none is"
    raise NotFound(f"addon {addon!r} is not installed here (installed: {known})", code="unknown_addon")


def _granted_now(grants: Grants | None, item: ViolationSum) -> bool:
    if grants is None or (item.forbidden and not refused_until_granted(item)):
        return False
    return grants.cover(item.kind, item.target, None)


def _since(text: str) -> datetime.datetime:
    return parse_since(text, datetime.datetime.now(datetime.UTC))


def _suggestion_json(
    addon: str, found: Suggestion, declared: Sequence[Capability], place: Path | None
) -> dict[str, Any]:
    """`patch` is a JSON merge patch (RFC 7396) for the manifest: it replaces the whole list."""
    return {
        "addon": addon,
        "clean": found.clean,
        "add": as_entries(found.add),
        "accept": as_entries(found.accept),
        "left_out": [
            {"kind": item.kind, "target": item.target, "count": item.count, "why": item.why} for item in found.left_out
        ],
        "patch": {"capabilities": as_entries([*declared, *found.add])} if found.add else {},
        "written": str(place) if place is not None and found.add else "",
    }
