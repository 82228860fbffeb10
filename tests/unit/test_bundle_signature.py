"""Signatures: what verifies, and that every way to fail has its own code."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
from typing import Any

import pytest
from nacl.signing import SigningKey, VerifyKey
from tests.bundles import FILES, MANIFEST, tar_gz

from metacore.bundle.signature import Signature, TrustedKeys, Verified, sign, verify
from metacore.bundle.write import write_bundle
from metacore.errors import BundleRefused, Misconfigured, SignatureRefused
from metacore.settings import Settings

KEY, OTHER = SigningKey(b"\1" * 32), SigningKey(b"\2" * 32)
CONTENT = write_bundle(FILES)
SIGNED = sign(CONTENT, KEY, key_id="k1", developer_id="ada", developer_name="Ada")
NOBODY = TrustedKeys(())


def trusting(*keys: SigningKey, allow_unsigned: bool = False) -> TrustedKeys:
    return TrustedKeys(tuple(bytes(key.verify_key) for key in keys), allow_unsigned)


def changed(**changes: Any) -> Signature:
    return SIGNED.model_copy(update=changes)


def refusal(signature: Signature | None, trusted: TrustedKeys, content: bytes = CONTENT) -> str:
    with pytest.raises(SignatureRefused) as caught:
        verify(content, signature, trusted)
    return caught.value.code


def test_a_signature_is_ed25519_over_the_digest_of_the_whole_file() -> None:
    digest = hashlib.sha256(CONTENT).digest()
    assert (SIGNED.algorithm, SIGNED.digest) == ("ed25519", digest.hex())
    VerifyKey(bytes(KEY.verify_key)).verify(digest, bytes.fromhex(SIGNED.value))
    assert SIGNED.checksums == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


def test_it_says_who_signed_and_when() -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    signature = sign(CONTENT, KEY, signed_at=moment)
    assert signature.signed_at == "2026-01-02T01:04:05Z"
    assert (SIGNED.key_id, SIGNED.developer_id, SIGNED.developer_name) == ("k1", "ada", "Ada")


def test_what_a_trusted_key_signed_verifies() -> None:
    assert verify(CONTENT, SIGNED, trusting(OTHER, KEY)) == Verified(
        digest=SIGNED.digest, signer=bytes(KEY.verify_key).hex(), key_id="k1", developer_name="Ada"
    )


def test_checksums_are_optional() -> None:
    bare = sign(CONTENT, KEY, checksums=False)
    assert bare.checksums is None and "checksums" not in bare.as_json()
    assert verify(CONTENT, bare, trusting(KEY)).signer == bytes(KEY.verify_key).hex()


def test_a_signature_survives_its_json() -> None:
    assert Signature.from_json(json.dumps(SIGNED.as_json())) == SIGNED
    shouting = changed(digest=SIGNED.digest.upper(), value=SIGNED.value.upper())
    assert verify(CONTENT, shouting, trusting(KEY)).digest == SIGNED.digest


def test_no_signature_is_refused_where_keys_are_trusted() -> None:
    assert refusal(None, trusting(KEY)) == "unsigned"
    assert refusal(None, trusting(KEY, allow_unsigned=True)) == "unsigned"


def test_without_trusted_keys_everything_is_refused() -> None:
    assert refusal(None, NOBODY) == "no_trusted_keys"
    assert refusal(SIGNED, NOBODY) == "no_trusted_keys"


def test_unsigned_bundles_need_permission_and_no_key() -> None:
    assert verify(CONTENT, None, TrustedKeys((), allow_unsigned=True)) == Verified(SIGNED.digest, "")


def test_a_signature_nobody_can_check_must_still_fit_the_bundle() -> None:
    lenient = TrustedKeys((), allow_unsigned=True)
    assert verify(CONTENT, SIGNED, lenient).signer == ""
    assert refusal(changed(digest="0" * 64), lenient) == "digest_mismatch"
    assert refusal(changed(checksums={}), lenient) == "checksum_undeclared"


@pytest.mark.parametrize("algorithm", ["rsa", "ED25519", "none", ""])
def test_another_algorithm_is_refused(algorithm: str) -> None:
    assert refusal(changed(algorithm=algorithm), trusting(KEY)) == "algorithm"


def test_one_flipped_byte_is_a_digest_mismatch() -> None:
    for place in (9, len(CONTENT) // 2, len(CONTENT) - 1):
        broken = bytearray(CONTENT)
        broken[place] ^= 1
        assert refusal(SIGNED, trusting(KEY), bytes(broken)) == "digest_mismatch"


def test_the_same_files_packed_otherwise_are_another_bundle() -> None:
    assert refusal(SIGNED, trusting(KEY), gzip.compress(gzip.decompress(CONTENT), 1)) == "digest_mismatch"


def test_a_key_that_is_not_trusted_is_refused() -> None:
    assert refusal(SIGNED, trusting(OTHER)) == "untrusted"
    assert refusal(changed(value=SIGNED.value[:-2] + "00"), trusting(KEY)) == "untrusted"
    assert refusal(changed(value="0" * 128), trusting(KEY)) == "untrusted"
    assert refusal(SIGNED, TrustedKeys((b"\0" * 32,))) == "untrusted"


def test_a_signature_of_another_bundle_is_refused_even_with_this_digest() -> None:
    other = sign(write_bundle({"manifest.json": FILES["manifest.json"]}), KEY)
    assert refusal(changed(value=other.value), trusting(KEY)) == "untrusted"


@pytest.mark.parametrize(
    "changes", [{"digest": "xyz"}, {"digest": ""}, {"digest": "ab" * 31}, {"value": "xyz"}, {"value": "ab" * 63}]
)
def test_what_is_no_hex_is_malformed(changes: dict[str, str]) -> None:
    assert refusal(changed(**changes), trusting(KEY)) == "malformed"


def test_every_checksum_must_be_there_and_fit() -> None:
    declared = dict(SIGNED.checksums or {})
    assert refusal(changed(checksums={**declared, "README.md": "0" * 64}), trusting(KEY)) == "checksum_mismatch"
    assert refusal(changed(checksums={**declared, "extra.js": "0" * 64}), trusting(KEY)) == "checksum_missing"
    del declared["README.md"]
    assert refusal(changed(checksums=declared), trusting(KEY)) == "checksum_undeclared"
    assert refusal(changed(checksums={}), trusting(KEY)) == "checksum_undeclared"


def test_checksums_of_an_archive_that_cannot_be_read_are_refused() -> None:
    content = tar_gz([MANIFEST, ("../x", b"1")])
    signature = sign(content, KEY, checksums=False).model_copy(update={"checksums": {}})
    with pytest.raises(BundleRefused, match="climbs out"):
        verify(content, signature, trusting(KEY))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"text"',
        "{",
        "{}",
        '{"algorithm": "ed25519", "digest": 5, "value": "x"}',
        '{"algorithm": "ed25519", "digest": "x", "value": "x", "checksums": {"a": 5}}',
        '{"algorithm": "ed25519", "digest": "x", "value": "x", "checksums": []}',
        "[" * 100_000,
        b"\xff\xfe\xff",
        " " * (4 * 1024 * 1024 + 1),
    ],
)
def test_what_is_no_signature_is_malformed(text: str | bytes) -> None:
    with pytest.raises(SignatureRefused) as caught:
        Signature.from_json(text)
    assert caught.value.code == "malformed"


def test_nulls_and_unknown_keys_of_a_signature_are_no_problem() -> None:
    text = json.dumps({**SIGNED.as_json(), "key_id": None, "checksums": None, "future": 1})
    assert Signature.from_json(text).key_id == ""
    assert Signature.model_validate({**SIGNED.as_json(), "developer_id": None}).developer_id == ""


def test_trusted_keys_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (bytes(key.verify_key).hex() for key in (KEY, OTHER))
    monkeypatch.setenv("MARKETPLACE_PUBKEYS", f"{first}, {second.upper()}")
    monkeypatch.setenv("MARKETPLACE_PUBKEY", first)
    monkeypatch.setenv("ALLOW_UNSIGNED_BUNDLES", "true")
    trusted = TrustedKeys.from_settings(Settings())
    assert trusted.keys == (bytes(KEY.verify_key), bytes(OTHER.verify_key))
    assert trusted.allow_unsigned
    assert verify(CONTENT, SIGNED, trusted).signer == first


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 33, "-----BEGIN PUBLIC KEY-----"])
def test_a_trusted_key_that_is_none_is_a_misconfiguration_and_not_shown(text: str) -> None:
    with pytest.raises(Misconfigured, match="trusted key 2") as caught:
        TrustedKeys.from_hex([bytes(KEY.verify_key).hex(), text])
    assert not text or text not in caught.value.message
