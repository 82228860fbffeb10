"""An addon's module is scanned before anything of the addon is installed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.factories import make_organization
from tests.guests.build import assemble, guest
from tests.tickets import TRUSTED, signed, tickets_manifest

from metacore.bundle.write import write_bundle
from metacore.db.database import Database
from metacore.errors import Refused
from metacore.installer.execute import Installer

BACKEND = {"runtime": "wasm", "entry": "backend/backend.wasm", "exports": ["echo"]}


def bundle(wasm: bytes | None, **backend: Any) -> bytes:
    files = {"manifest.json": json.dumps(tickets_manifest(backend=BACKEND | backend)).encode()}
    if wasm is not None:
        files["backend/backend.wasm"] = wasm
    return write_bundle(files)


@pytest.mark.parametrize(
    ("wasm", "backend", "code", "words"),
    [
        (None, {}, "wasm_missing", "backend/backend.wasm"),
        (b"\0asm nonsense", {}, "wasm_invalid", ""),
        (assemble("(module)"), {}, "wasm_refused", "memory"),
        (guest("echo"), {"exports": ["echo", "absent"]}, "wasm_refused", "absent"),
        (guest("start_loops"), {"exports": ["go"]}, "wasm_refused", ""),
    ],
    ids=["missing", "no module", "no exports", "an export too few", "never starts"],
)
async def test_code_that_cannot_run_refuses_the_bundle_and_leaves_nothing(
    owner_db: Database, wasm: bytes | None, backend: dict[str, Any], code: str, words: str
) -> None:
    organization = await make_organization(owner_db)
    installer = Installer(owner_db)
    with pytest.raises(Refused) as refused:
        await installer.install(*signed(bundle(wasm, **backend)), trusted=TRUSTED, organizations=[organization])
    assert refused.value.code == code
    assert words in refused.value.message
    async with owner_db.postgres.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM metacore_addons") == 0
        assert await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'addon\\_%'") == 0


async def test_good_code_is_installed_with_its_addon(owner_db: Database) -> None:
    organization = await make_organization(owner_db)
    report = await Installer(owner_db).install(
        *signed(bundle(guest("echo"))), trusted=TRUSTED, organizations=[organization]
    )
    assert report.changed
