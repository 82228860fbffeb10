"""`metacore plan`: what installing a bundle would do, without doing it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import select

from metacore.bundle.archive import MAX_BYTES
from metacore.bundle.read import Bundle, read_bundle
from metacore.bundle.signature import MAX_SIGNATURE_BYTES, Signature, Verified, verify
from metacore.cli import output
from metacore.cli.bundle import signature_path, trusted_keys
from metacore.cli.environment import read_settings
from metacore.db.database import Database
from metacore.errors import NotFound, SignatureRefused
from metacore.installer.execute import Installer
from metacore.installer.plan import Plan, plan_for_empty
from metacore.installer.steps import Rehearsal, RiskKind, Step, StepKind
from metacore.orm.tables import Organization

EXAMPLE_ORGANIZATION = uuid.UUID("00000000-0000-4000-8000-000000000001")
"""Stands for an organization where a plan is made without a database."""


@dataclass(frozen=True, slots=True)
class Verification:
    """`verified` is None when the signature does not hold; then `code` and `message` say why."""

    verified: Verified | None
    code: str = ""
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        if self.verified is None:
            return {"verified": False, "code": self.code, "message": self.message}
        return {"verified": True, "signer": self.verified.signer or None}


def plan(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A bundle, a tar.gz.")],
    signature: Annotated[Path | None, typer.Option(dir_okay=False, help="Default: FILE.sig.json.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Trusted public key: hex or a .pub file. Default: dev.pub and the settings."),
    ] = None,
    database_url: Annotated[
        str, typer.Option(help="Database of the owner role; without one, an empty database is assumed.")
    ] = "",
    organization: Annotated[
        list[str] | None, typer.Option(help="Organization that gets the addon, by id or name; several are possible.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Try pending migrations on a copy of the addon's schema, which is gone afterwards.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what installing a bundle would do: signature, steps with their DDL, capabilities, data at risk.

    Nothing is changed. The exit code is 1 when the installation would be refused.
    """
    content = output.read_file(file, MAX_BYTES)
    verification = _verify(content, signature or signature_path(file), signature is not None, key or [])
    bundle = read_bundle(content)
    url = database_url or read_settings().owner_database_url.get_secret_value()
    tried = Rehearsal()
    if url:
        found, tried = asyncio.run(_plan_in(url, bundle, organization or [], rehearse=rehearse))
    else:
        found = plan_for_empty(bundle, [_id(text) for text in organization or []] or [EXAMPLE_ORGANIZATION])
    if as_json:
        output.show_json({"signature": verification.as_json(), **found.as_json(), "rehearsal": tried.as_json()})
    else:
        _show(bundle, found, verification, url, tried)
    if verification.verified is None or tried.failure:
        raise typer.Exit(1)


def _verify(content: bytes, place: Path, given: bool, keys: list[str]) -> Verification:
    spoken = None
    try:
        if given or place.exists():
            spoken = Signature.from_json(output.read_file(place, MAX_SIGNATURE_BYTES))
        return Verification(verify(content, spoken, trusted_keys(keys)))
    except SignatureRefused as error:
        return Verification(None, error.code, error.message)


async def _plan_in(url: str, bundle: Bundle, wanted: Sequence[str], *, rehearse: bool) -> tuple[Plan, Rehearsal]:
    database = await Database.connect(url, pool_size=2, application_name="metacore-plan")
    try:
        organizations = await _organizations(database, wanted)
        installer = Installer(database)
        found = await installer.plan(bundle, organizations)
        return found, await installer.rehearse(bundle, organizations, found) if rehearse else Rehearsal()
    finally:
        await database.close()


async def _organizations(database: Database, wanted: Sequence[str]) -> list[uuid.UUID]:
    """The ids of organizations given by id or name."""
    found = []
    async with database.transaction(None) as connection:
        for text in wanted:
            try:
                found.append(uuid.UUID(text))
                continue
            except ValueError:
                rows = (await connection.execute(select(Organization.id).where(Organization.name == text))).all()
            if len(rows) != 1:
                count = "no organization is" if not rows else f"{len(rows)} organizations are"
                raise NotFound(f"{count} called {text!r}", code="unknown_organization")
            found.append(rows[0].id)
    return found


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise NotFound(f"{text!r} is no id: without a database organizations have no names") from None


def _show(bundle: Bundle, plan: Plan, verification: Verification, url: str, tried: Rehearsal) -> None:
    manifest = bundle.manifest
    output.say(f"{manifest.key} {manifest.version}  {manifest.name}  sha256 {bundle.digest}")
    if verification.verified is None:
        output.say(f"signature: {output.paint('refused', '31;1')}: {verification.message}")
    else:
        signer = verification.verified.signer
        output.say(f"signature: {output.paint(f'by {signer}' if signer else 'none, and none is needed here', '32')}")
    output.say(f"database: {'as it is' if url else 'an empty one is assumed'}")
    if not url and manifest.requires:
        needed = ", ".join(f"{item.key} {item.version}" for item in manifest.requires if not item.optional)
        output.say(f"requires: {needed or 'nothing'}")
    _show_capabilities(plan)
    rewritten = [risk for risk in plan.risks if risk.kind is RiskKind.DATA_REWRITE]
    at_risk = [f"{risk.subject}: {risk.message}" for risk in plan.risks if risk not in rewritten]
    _show_lines("data at risk", at_risk, colour="33;1")
    _show_lines("written over", [f"{risk.subject}: {risk.message}" for risk in rewritten], colour="33")
    _show_lines("left out", plan.notes, colour="33")
    _show_rehearsal(tried)
    if not plan.changed:
        output.say("nothing to do: the database holds all of it")
        return
    output.say(f"steps ({len(plan.steps)}):")
    for number, step in enumerate(plan.steps, start=1):
        _show_step(number, step)


def _show_capabilities(plan: Plan) -> None:
    if not plan.capabilities:
        return
    output.say("capabilities:")
    for capability in plan.capabilities:
        new = output.paint(" (new)", "36;1") if capability in plan.new_capabilities else ""
        reason = f": {capability.reason}" if capability.reason else ""
        output.say(f"  {capability.kind} {capability.target}{new}{reason}")


def _show_rehearsal(tried: Rehearsal) -> None:
    """What was seen when the migrations were tried on a copy."""
    if tried.failure:
        output.say(f"tried on a copy: {output.paint('fails', '31;1')}: {tried.failure}")
    lines = []
    for impact in tried.impacts:
        does = [
            impact.lock,
            *(["written anew"] if impact.rewrites else []),
            *(["read through"] if impact.scans else []),
        ]
        rows = f"{'more than ' * impact.more}{impact.rows} rows"
        lines.append(f"{impact.place} {impact.statement} of {impact.table}: {', '.join(does)}; {rows}")
    _show_lines("tried on a copy", lines, colour="36")
    _show_lines("keeps others waiting", [risk.message for risk in tried.risks], colour="33;1")
    _show_lines("not tried", tried.notes, colour="33")


def _show_lines(title: str, lines: Sequence[str], *, colour: str) -> None:
    if lines:
        output.say(output.paint(f"{title}:", colour))
        for line in lines:
            output.say(f"  {line}")


def _show_step(number: int, step: Step) -> None:
    alone = "" if step.transactional else " [outside a transaction]"
    output.say(f"{number:>3}. {output.paint(step.name, '1')}{alone}  {step.reason}")
    for statement in step.statements:
        end = "" if step.kind is StepKind.MIGRATION and statement.rstrip().endswith(";") else ";"
        for line in _painted(statement + end):
            output.say(f"       {line}")
    if step.seed is not None:
        for row in step.seed.rows:
            output.say("       " + ", ".join(f"{name}={value!r}" for name, value in row.items()))


KEYWORDS = frozenset(
    """
    ADD ALTER AS AUTHORIZATION BTREE CASCADE CHECK COLUMN CONCURRENTLY CONSTRAINT CREATE CURRENT_USER DEFAULT DELETE
    DESC DISABLE DROP ENABLE EXISTS FORCE FOREIGN FROM FUNCTION GENERATED GRANT IF IN INDEX INSERT INTO IS KEY LEVEL
    NOLOGIN NOINHERIT NOT NULL ON OWNER POLICY PRIMARY PUBLIC REFERENCES ROLE ROW SCHEMA SECURITY SELECT SET STORED
    TABLE TO TYPE UNIQUE UPDATE USAGE USING VALUES VIEW WHERE WITH
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings.
)


def _painted(statement: str) -> list[str]:
    """The lines of a statement, its keywords in colour where a person looks at it."""
    return [
        " ".join(
            output.paint(word, "34") if word.strip("(),;").upper() in KEYWORDS else word for word in line.split(" ")
        )
        for line in output.clean(statement).replace("\t", "  ").splitlines()
    ]
