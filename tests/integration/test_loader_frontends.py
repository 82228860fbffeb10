"""Files of addon frontends: the right bytes and types from a private cache, and nothing from outside of it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from pathlib import Path

import pytest
from sqlalchemy import insert, update
from tests.tickets import make_bundle, tickets_manifest

from metacore.addons import frontends
from metacore.addons.frontends import FrontendStore
from metacore.bundle.read import digest_of
from metacore.db.database import Database
from metacore.errors import MetacoreError, NotFound, Unavailable
from metacore.orm.tables import Bundle

FILES = {
    "remoteEntry.js": b"export default 1",
    "assets/app-3f9a1c2b.js": b"console.log(1)",
    "assets/style.css": b"a{}",
    "assets/logo.svg": b"<svg/>",
    "assets/data.bin": b"\0\1",
    "frontend/nested.js": b"nested",
}


@pytest.fixture
async def digest(sqlite_db: Database) -> str:
    content = make_bundle(tickets_manifest(), frontend=FILES)
    async with sqlite_db.transaction(None) as connection:
        await connection.execute(
            insert(Bundle).values(
                digest=digest_of(content), addon_key="tickets", version="1.0.0", content=content, signature={}
            )
        )
    return digest_of(content)


@pytest.fixture
def store(sqlite_db: Database, tmp_path: Path) -> FrontendStore:
    return FrontendStore(sqlite_db, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("path", "content_type", "hashed"),
    [
        ("remoteEntry.js", "text/javascript; charset=utf-8", False),
        ("assets/app-3f9a1c2b.js", "text/javascript; charset=utf-8", True),
        ("assets/style.css", "text/css; charset=utf-8", False),
        ("assets/logo.svg", "image/svg+xml", False),
        ("assets/data.bin", "application/octet-stream", False),
        ("frontend/nested.js", "text/javascript; charset=utf-8", False),
    ],
)
async def test_a_file_has_its_bytes_type_and_tag(
    store: FrontendStore, digest: str, path: str, content_type: str, hashed: bool
) -> None:
    file = await store.read(digest, path)
    assert (file.content, file.content_type, file.hashed) == (FILES[path], content_type, hashed)
    assert file.etag == hashlib.sha256(FILES[path]).hexdigest()[:32]


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/",
        "nope.js",
        "assets",
        "../outside.txt",
        "assets/../../outside.txt",
        "..",
        "/etc/passwd",
        "assets\\..\\..\\outside.txt",
        "remoteEntry.js\0.css",
        "a" * 300,
        "remoteEntry.js/more",
    ],
)
async def test_what_is_no_file_of_the_frontend_is_not_found(
    store: FrontendStore, digest: str, tmp_path: Path, path: str
) -> None:
    await store.read(digest, "remoteEntry.js")
    (tmp_path / "cache" / "frontends" / "outside.txt").write_text("secret")
    with pytest.raises(NotFound):
        await store.read(digest, path)


async def test_a_link_out_of_the_cache_is_not_followed(store: FrontendStore, digest: str, tmp_path: Path) -> None:
    await store.read(digest, "remoteEntry.js")
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "cache" / "frontends" / digest / "link.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(NotFound):
        await store.read(digest, "link.txt")


@pytest.mark.parametrize("digest", ["", "..", "ab" * 32 + "/..", "AB" * 32])
async def test_a_digest_that_is_none_is_not_found(store: FrontendStore, digest: str) -> None:
    with pytest.raises(NotFound):
        await store.read(digest, "remoteEntry.js")


async def test_an_unknown_digest_is_refused(store: FrontendStore) -> None:
    with pytest.raises(MetacoreError):
        await store.read("ab" * 32, "remoteEntry.js")


async def test_a_stored_bundle_that_was_changed_is_not_unpacked(
    sqlite_db: Database, store: FrontendStore, digest: str, tmp_path: Path
) -> None:
    async with sqlite_db.transaction(None) as connection:
        await connection.execute(update(Bundle).values(content=make_bundle(tickets_manifest(), frontend={"x": b""})))
    with pytest.raises(NotFound, match="digest"):
        await store.read(digest, "x")
    assert list((tmp_path / "cache" / "frontends").iterdir()) == []


async def test_a_bundle_is_unpacked_once_however_many_ask(
    store: FrontendStore, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[str] = []
    unpack = frontends._unpack

    def counted(content: bytes, digest: str, folder: Path) -> None:
        unpacked.append(digest)
        unpack(content, digest, folder)

    monkeypatch.setattr(frontends, "_unpack", counted)
    files = await asyncio.gather(*(store.read(digest, path) for path in [*FILES] * 3))
    assert unpacked == [digest]
    assert {file.content for file in files} == set(FILES.values())


async def test_a_given_cache_is_private_and_serves_the_next_process_without_the_database(
    sqlite_db: Database, store: FrontendStore, digest: str, tmp_path: Path
) -> None:
    await store.read(digest, "remoteEntry.js")
    store.close()
    root = tmp_path / "cache" / "frontends"
    assert root.stat().st_mode & 0o777 == 0o700
    async with sqlite_db.transaction(None) as connection:
        await connection.execute(Bundle.__table__.delete())  # type: ignore[attr-defined]
    again = FrontendStore(sqlite_db, cache_dir=str(tmp_path / "cache"))
    assert (await again.read(digest, "remoteEntry.js")).content == FILES["remoteEntry.js"]


async def test_a_cache_that_others_can_write_to_is_refused(store: FrontendStore, digest: str, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "frontends"
    root.mkdir(parents=True)
    root.chmod(0o777)
    with pytest.raises(Unavailable, match="private"):
        await store.read(digest, "remoteEntry.js")


async def test_a_temporary_cache_goes_with_its_store(sqlite_db: Database, digest: str) -> None:
    closed, dropped = FrontendStore(sqlite_db), FrontendStore(sqlite_db)
    roots = []
    for one in (closed, dropped):
        await one.read(digest, "remoteEntry.js")
        assert one._root is not None
        roots.append(one._root)
    closed.close()
    assert [root.exists() for root in roots] == [False, True]
    del dropped, one
    gc.collect()
    assert [root.exists() for root in roots] == [False, False]
