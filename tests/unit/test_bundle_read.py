"""Reading bundles from anybody: what is right is found, what is hostile is refused with a reason."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile

import pytest
from tests.bundles import FILES, MANIFEST, Entry, archive, header, tar_gz
from tests.manifests import v2, v3

from metacore.bundle import archive as archives
from metacore.bundle.read import read_bundle
from metacore.bundle.references import missing_files
from metacore.bundle.write import write_bundle
from metacore.errors import BundleRefused, ManifestInvalid
from metacore.manifest.read import parse_manifest


def refusal(content: bytes) -> BundleRefused:
    with pytest.raises(BundleRefused) as caught:
        read_bundle(content)
    return caught.value


def test_a_bundle_is_read_back_whole() -> None:
    content = write_bundle(FILES)
    bundle = read_bundle(content)
    assert dict(bundle.files) == dict(FILES)
    assert bundle.digest == hashlib.sha256(content).hexdigest()
    assert bundle.checksums == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    assert (bundle.manifest.key, bundle.manifest.version) == ("tickets", "1.0.0")
    assert [(item.version, item.name, item.sql) for item in bundle.migrations] == [
        ("0001", "init", "CREATE TABLE notes (id uuid);"),
        ("0002", "more", "ALTER TABLE notes ADD COLUMN body text;"),
    ]
    assert bundle.migrations[0].checksum == hashlib.sha256(FILES["migrations/0001_init.sql"]).hexdigest()
    assert bundle.frontend == {"assets/a.css": b"a{}", "remoteEntry.js": b"export default 1"}
    assert bundle.backend == {"backend.wasm": b"\0asm\1\0\0\0"}
    assert bundle.readme == "# Tickets é\n"
    assert bundle.wasm is None


def test_the_module_of_a_wasm_backend_is_found() -> None:
    manifest = json.dumps(v2(backend={"runtime": "wasm"})).encode()
    assert read_bundle(write_bundle({**FILES, "manifest.json": manifest})).wasm == b"\0asm\1\0\0\0"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_common_kind_of_tar_is_read(format: int) -> None:
    long = f"frontend/{'d' * 90}/{'f' * 90}.js"
    bundle = read_bundle(tar_gz([("./", b""), ("./manifest.json", MANIFEST[1]), (f".//{long}", b"1")], format))
    assert set(bundle.files) == {"manifest.json", long}


def test_names_are_made_unambiguous() -> None:
    bundle = read_bundle(tar_gz([("././manifest.json", FILES["manifest.json"]), ("frontend/./a//b.js", b"1")]))
    assert set(bundle.files) == {"manifest.json", "frontend/a/b.js"}


def test_links_devices_and_folders_are_skipped() -> None:
    entries: list[Entry] = [
        header("frontend", tarfile.DIRTYPE),
        MANIFEST,
        header("frontend/link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        header("frontend/hard", tarfile.LNKTYPE, linkname="manifest.json"),
        header("frontend/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        header("frontend/disk", tarfile.BLKTYPE),
        header("frontend/pipe", tarfile.FIFOTYPE),
        ("frontend/a.js", b"1"),
    ]
    assert set(read_bundle(tar_gz(entries)).files) == {"manifest.json", "frontend/a.js"}


def test_a_manifest_that_is_a_link_is_no_manifest() -> None:
    assert refusal(tar_gz([header("manifest.json", tarfile.SYMTYPE, linkname="x")])).code == "no_manifest"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../manifest.json", "climbs out"),
        ("frontend/../../x", "climbs out"),
        ("/etc/passwd", "absolute path"),
        ("C:/x", "absolute path"),
        ("c:x", "absolute path"),
        ("frontend\\..\\x", "backslash"),
        ("frontend/a\nb", "control character"),
        ("frontend/\x1b[31m", "control character"),
        ("frontend/" + "a" * 600, "longer than"),
    ],
)
def test_hostile_names_are_refused(name: str, words: str) -> None:
    error = refusal(tar_gz([MANIFEST, (name, b"x")]))
    assert (error.code, words in error.message) == ("entry_name", True)


def test_hostile_names_of_links_are_refused_too() -> None:
    assert refusal(tar_gz([MANIFEST, header("../x", tarfile.SYMTYPE, linkname="y")])).code == "entry_name"


def test_a_nul_in_a_pax_name_is_refused() -> None:
    info = header("manifest.json", tarfile.REGTYPE, pax_headers={"path": "frontend/a\0b"})
    assert refusal(tar_gz([MANIFEST, info])).code == "entry_name"


def test_names_that_are_not_utf8_are_refused() -> None:
    raw = bytearray(archive([("frontend/aa.js", b"")], tarfile.USTAR_FORMAT))
    raw[9:11] = b"\xff\xfe"
    assert refusal(gzip.compress(bytes(_with_checksum(raw)))).code == "entry_name"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([MANIFEST, MANIFEST], "two manifests"),
        ([MANIFEST, ("./manifest.json", b"{}")], "two manifests"),
        ([MANIFEST, ("frontend/a", b"1"), ("frontend//a", b"2")], "twice"),
        ([MANIFEST, ("frontend/a", b"1"), ("frontend/a/b", b"2")], "both a file and a folder"),
    ],
)
def test_nothing_is_in_a_bundle_twice(entries: list[Entry], words: str) -> None:
    error = refusal(tar_gz(entries))
    assert (error.code, words in error.message) == ("duplicate_entry", True)


def test_a_missing_manifest_says_where_one_was_found() -> None:
    assert refusal(tar_gz([("README.md", b"x")])).code == "no_manifest"
    assert "at 'tickets/manifest.json'" in refusal(tar_gz([("tickets/manifest.json", b"{}")])).message


def test_a_broken_manifest_is_refused_as_one() -> None:
    with pytest.raises(ManifestInvalid, match=r"manifest: is not JSON"):
        read_bundle(tar_gz([("manifest.json", b"{")]))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_gzip"),
        (b"PK\3\4 this is a zip", "not_gzip"),
        (b"\x1f\x8b", "truncated"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 50, "not_gzip"),
        (gzip.compress(b""), "not_tar"),
        (gzip.compress(b"\0" * 10_240), "not_tar"),
        (gzip.compress(b"hello" * 500), "not_tar"),
        (gzip.compress(archive([MANIFEST]))[:-9], "truncated"),
        (gzip.compress(archive([MANIFEST]))[:60], "truncated"),
        (gzip.compress(archive([MANIFEST])[:700]), "truncated"),
        (gzip.compress(archive([MANIFEST])[:100]), "truncated"),
        (gzip.compress(archive([MANIFEST])) + b"more", "trailing_data"),
        (gzip.compress(archive([MANIFEST])) + gzip.compress(archive([("x", b"1")])), "trailing_data"),
        (gzip.compress(archive([MANIFEST]) + archive([("frontend/x", b"1")])), "trailing_data"),
    ],
)
def test_what_is_no_whole_archive_is_refused(content: bytes, code: str) -> None:
    assert refusal(content).code == code


def test_a_wrong_checksum_of_the_gzip_is_refused() -> None:
    content = bytearray(gzip.compress(archive([MANIFEST])))
    content[-6] ^= 1
    assert refusal(bytes(content)).code == "not_gzip"


def test_a_tar_without_its_end_marker_is_read() -> None:
    raw = archive([MANIFEST])
    size = 512 + -(-len(MANIFEST[1]) // 512) * 512
    assert set(read_bundle(gzip.compress(raw[:size])).files) == {"manifest.json"}


def test_what_is_decompressed_is_counted_not_what_headers_say() -> None:
    bomb = tar_gz([MANIFEST, ("frontend/zeros", b"\0" * (archives.MAX_BYTES + 1))])
    assert len(bomb) < 200_000
    assert refusal(bomb).code == "too_large"


def test_many_small_files_count_together() -> None:
    content = tar_gz([(f"frontend/{number}", b"x") for number in range(60)])
    with pytest.raises(BundleRefused, match="more than 20000 bytes"):
        archives.read_archive(content, limit=20_000)


def test_a_header_that_lies_about_its_size_is_refused() -> None:
    raw = bytearray(archive([("manifest.json", b"{}")], tarfile.USTAR_FORMAT))
    raw[124:136] = b"77777777777\0"
    assert refusal(gzip.compress(bytes(_with_checksum(raw)))).code == "too_large"
    raw[124:136] = b"\xff" * 12
    assert refusal(gzip.compress(bytes(_with_checksum(raw)))).code == "not_tar"
    raw[124:136] = b"-0000000001\0"
    assert refusal(gzip.compress(bytes(_with_checksum(raw)))).code == "not_tar"


def test_zeros_after_the_end_are_counted_too() -> None:
    assert refusal(gzip.compress(archive([MANIFEST]) + b"\0" * archives.MAX_BYTES)).code == "too_large"


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    links = [header(f"frontend/{number}", tarfile.SYMTYPE, linkname="x") for number in range(20)]
    assert refusal(tar_gz([MANIFEST, *links])).code == "too_many_entries"


def test_sparse_files_are_refused() -> None:
    info = header("frontend/sparse", tarfile.GNUTYPE_SPARSE)
    assert refusal(tar_gz([MANIFEST, info], tarfile.GNU_FORMAT)).code == "entry_kind"
    pax = header("frontend/sparse", tarfile.REGTYPE, pax_headers={"GNU.sparse.major": "1"})
    assert refusal(tar_gz([MANIFEST, pax])).code == "entry_kind"


def test_extended_headers_do_not_pile_up() -> None:
    pax = header("x", tarfile.XHDTYPE)
    assert refusal(tar_gz([*([pax] * 50), MANIFEST], tarfile.USTAR_FORMAT)).code == "not_tar"
    huge = header("frontend/a", tarfile.REGTYPE, pax_headers={"comment": "x" * 100_000})
    assert refusal(tar_gz([MANIFEST, huge])).code == "not_tar"


@pytest.mark.parametrize(
    "records",
    [
        b"5 a=b\n",
        b"99 path=x\n",
        b"x path=a\n",
        b"12 path=abcd",
        b"11 pathabc\n",
        b"14 size=-5000\n",
        b"14 size=1e999\n",
    ],
)
def test_broken_extended_headers_are_refused(records: bytes) -> None:
    raw = archive([("././@PaxHeader", records), MANIFEST], tarfile.USTAR_FORMAT)
    changed = bytearray(raw)
    changed[156:157] = b"x"
    assert refusal(gzip.compress(bytes(_with_checksum(changed)))).code == "not_tar"


def test_an_extended_header_at_the_end_belongs_to_nothing() -> None:
    raw = bytearray(archive([("././@PaxHeader", b"12 path=abc\n")], tarfile.USTAR_FORMAT))
    raw[156:157] = b"x"
    assert refusal(gzip.compress(bytes(_with_checksum(raw)))).code == "not_tar"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"migrations/init.sql": b""}, "migration_name"),
        ({"migrations/0001_a.txt": b""}, "migration_name"),
        ({"migrations/00001_a.sql": b""}, "migration_name"),
        ({"migrations/0001_a.down.sql": b""}, "migration_name"),
        ({"migrations/0001_a.sql": b"", "migrations/0001_b.sql": b""}, "migration_version"),
        ({"migrations/0001_a.sql": b"select '\xff'"}, "migration_text"),
        ({"migrations/0001_a.sql": b"select 1\0"}, "migration_text"),
    ],
)
def test_migrations_are_named_numbered_and_text(files: dict[str, bytes], code: str) -> None:
    assert refusal(tar_gz([MANIFEST, *files.items()])).code == code


def test_migrations_come_by_version_whatever_their_order() -> None:
    bundle = read_bundle(
        tar_gz([MANIFEST, ("migrations/0010_b.sql", b"b"), ("migrations/0002_a.sql", b"\xef\xbb\xbfa")])
    )
    assert [(item.version, item.sql) for item in bundle.migrations] == [("0002", "a"), ("0010", "b")]


def test_translations_of_files_are_merged() -> None:
    manifest = v3(
        i18n={
            "default_locale": "en",
            "bundles": [
                {"locale": "en", "messages": {"a": "inline", "c": "only here"}},
                {"locale": "en", "path": "frontend/en.json"},
                {"locale": "es", "path": "frontend/es.json"},
                {"locale": "fr", "path": "frontend/fr.json"},
                {"locale": "de", "path": "frontend/de.json"},
            ],
        }
    )
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "frontend/en.json": b'{"a": "file", "b": {"x": "deep"}}',
        "frontend/es.json": b'{"a": "uno"}',
        "frontend/fr.json": b"not json",
    }
    bundle = read_bundle(write_bundle(files))
    assert bundle.manifest.i18n == {"en": {"a": "file", "b.x": "deep", "c": "only here"}, "es": {"a": "uno"}}
    assert [problem.message for problem in missing_files(bundle.manifest, bundle.files)] == [
        "'frontend/fr.json' for fr is not a JSON object of translations",
        "'frontend/de.json' for de is not in the bundle",
    ]


@pytest.mark.parametrize(
    ("entry", "there"),
    [
        ("remoteEntry.js", True),
        ("./remoteEntry.js?v=1", True),
        ("frontend/remoteEntry.js", True),
        ("/api/metacore/addons/shop/frontend/remoteEntry.js", True),
        ("https://cdn.example/remoteEntry.js", True),
        ("other.js", False),
        ("/api/metacore/addons/shop/frontend/other.js", False),
    ],
)
def test_files_that_a_manifest_names_are_looked_up(entry: str, there: bool) -> None:
    manifest = parse_manifest(
        v3(
            frontend={"entry": entry},
            lifecycle={"upgrade": [{"from": "*", "type": "sql", "function": "migrations/0001_init.sql"}]},
        )
    )
    found = [problem.field for problem in missing_files(manifest, FILES)]
    assert found == ([] if there else ["manifest.frontend.entry"])


def test_a_wasm_backend_needs_its_module() -> None:
    manifest = parse_manifest(v3(backend={"runtime": "wasm"}))
    assert missing_files(manifest, FILES) == []
    assert [problem.field for problem in missing_files(manifest, {})] == ["manifest.backend.entry"]


def test_reading_never_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a reader opened a file")

    content = write_bundle(FILES)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("os.open", refuse)
    assert read_bundle(content).manifest.key == "tickets"


def _with_checksum(raw: bytearray) -> bytearray:
    """The first header with the checksum that its bytes have now."""
    total = sum(raw[:148]) + 8 * 32 + sum(raw[156:512])
    raw[148:156] = b"%06o\0 " % total
    return raw


def test_the_reader_agrees_with_the_standard_one() -> None:
    with tarfile.open(fileobj=io.BytesIO(write_bundle(FILES))) as tar:
        standard = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    assert archives.read_archive(write_bundle(FILES)) == standard
