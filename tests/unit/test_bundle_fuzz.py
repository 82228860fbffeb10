"""Whatever bytes arrive, reading them ends in a bundle or in a refusal, quickly and without a crash."""

from __future__ import annotations

import gzip
import json
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from tests.bundles import FILES, archive, tar_gz
from tests.manifests import V2

from metacore.bundle.archive import read_archive
from metacore.bundle.read import read_bundle
from metacore.bundle.signature import Signature, TrustedKeys, sign, verify
from metacore.bundle.write import write_bundle
from metacore.errors import BundleRefused, ManifestInvalid, MetacoreError, SignatureRefused

SMALL = {
    "manifest.json": json.dumps(V2).encode(),
    "migrations/0001_a.sql": b"select 1",
    f"frontend/{'n' * 110}.js": b"1",
}
GOOD = write_bundle(SMALL)
TAR = archive(SMALL.items())
KEY = SigningKey(b"\1" * 32)
TRUSTED = TrustedKeys((bytes(KEY.verify_key),))
SIGNED = sign(GOOD, KEY)
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survives(content: bytes) -> None:
    try:
        read_bundle(content)
    except (BundleRefused, ManifestInvalid) as error:
        assert error.message


def mutated(base: bytes, changes: list[tuple[int, int]]) -> bytes:
    made = bytearray(base)
    for place, value in changes:
        made[place % len(made)] = value
    return bytes(made)


edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6)


@RELAXED
@given(edits)
def test_changed_bytes_of_a_bundle(changes: list[tuple[int, int]]) -> None:
    survives(mutated(GOOD, changes))


@RELAXED
@given(edits)
def test_changed_bytes_of_the_tar_inside(changes: list[tuple[int, int]]) -> None:
    survives(gzip.compress(mutated(TAR, changes), 1))


@RELAXED
@given(edits, st.sampled_from([0, 512, 1024, 1536]))
def test_changed_headers_with_a_right_checksum(changes: list[tuple[int, int]], start: int) -> None:
    raw = bytearray(TAR)
    for place, value in changes:
        raw[start + place % 512] = value
    total = sum(raw[start : start + 148]) + 8 * 32 + sum(raw[start + 156 : start + 512])
    raw[start + 148 : start + 156] = b"%06o\0 " % (total & 0o777777)
    survives(gzip.compress(bytes(raw), 1))


@RELAXED
@given(st.integers(0, len(GOOD)), st.integers(0, len(TAR)))
def test_cut_off_bundles(end: int, tar_end: int) -> None:
    survives(GOOD[:end])
    survives(gzip.compress(TAR[:tar_end], 1))


@RELAXED
@given(st.binary(max_size=2_000))
def test_any_bytes(content: bytes) -> None:
    survives(content)
    survives(b"\x1f\x8b" + content)
    survives(gzip.compress(content, 1))
    survives(tar_gz([("manifest.json", content)]))


@RELAXED
@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.binary(max_size=20)), max_size=5))
def test_any_names(entries: list[tuple[str, bytes]]) -> None:
    clean = [(name, data) for name, data in entries if "\0" not in name and name.isascii()]
    survives(tar_gz([("manifest.json", SMALL["manifest.json"]), *clean], tarfile.GNU_FORMAT))


@RELAXED
@given(st.dictionaries(st.text(max_size=30), st.binary(max_size=50), max_size=6))
def test_what_is_written_is_read_back(extra: dict[str, bytes]) -> None:
    files = {**SMALL, **{f"frontend/{name}": data for name, data in extra.items()}}
    try:
        content = write_bundle(files)
    except BundleRefused:
        return
    found = read_archive(content)
    assert sorted(found.values()) == sorted(files.values())
    assert content == write_bundle(dict(reversed(files.items())))


@RELAXED
@given(edits)
def test_no_changed_bundle_keeps_its_signature(changes: list[tuple[int, int]]) -> None:
    content = mutated(GOOD, changes)
    try:
        verify(content, SIGNED, TRUSTED)
    except SignatureRefused as error:
        assert error.code == "digest_mismatch"
        return
    assert content == GOOD


@RELAXED
@given(st.dictionaries(st.sampled_from(["algorithm", "digest", "value", "checksums", "key_id"]), st.text() | st.none()))
def test_no_changed_signature_crashes(changes: dict[str, str | None]) -> None:
    text = json.dumps({**SIGNED.as_json(), **changes})
    try:
        assert verify(GOOD, Signature.from_json(text), TRUSTED).digest == SIGNED.digest
    except MetacoreError as error:
        assert isinstance(error, SignatureRefused)


def test_the_files_of_the_examples_are_good() -> None:
    assert set(read_bundle(GOOD).files) == set(SMALL)
    assert set(read_bundle(write_bundle(FILES)).files) == set(FILES)
