"""Signing and verifying bundles: Ed25519 over the 32 bytes SHA-256 of the whole file (contract 9).

The signature travels beside the bundle. What it says besides (names, times, checksums) is not signed itself: the
checksums are compared with the bundle, the rest is only shown.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from metacore.bundle.archive import read_archive
from metacore.errors import Misconfigured, SignatureRefused

if TYPE_CHECKING:
    from metacore.settings import Settings

ALGORITHM = "ed25519"
MAX_SIGNATURE_BYTES = 4 * 1024 * 1024
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_VALUE = re.compile(r"[0-9a-fA-F]{128}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")


class Signature(BaseModel):
    """The wire object. `checksums` maps every entry of the bundle to its hex SHA-256; None leaves them out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    algorithm: str
    digest: str
    value: str
    key_id: str = ""
    developer_id: str = ""
    developer_name: str = ""
    signed_at: str = ""
    checksums: dict[str, str] | None = None

    @classmethod
    def from_json(cls, data: bytes | str) -> Signature:
        """The signature in a JSON object.

        Raises:
            SignatureRefused: it is none; `code` is malformed.
        """
        if len(data) > MAX_SIGNATURE_BYTES:
            raise SignatureRefused(f"the signature is larger than {MAX_SIGNATURE_BYTES} bytes", code="malformed")
        try:
            return cls.model_validate(json.loads(data))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise SignatureRefused(f"the signature is malformed: {place}: {first['msg']}", code="malformed") from None
        except (ValueError, RecursionError):
            raise SignatureRefused("the signature is malformed: it is not a JSON object", code="malformed") from None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value

    def as_json(self) -> dict[str, Any]:
        """The wire object without its empty optional keys."""
        return {key: value for key, value in self.model_dump().items() if value not in ("", None)}


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Public keys (32 bytes each) of those who may sign. `allow_unsigned` counts only while no key is trusted."""

    keys: tuple[bytes, ...]
    allow_unsigned: bool = False

    @classmethod
    def from_hex(cls, keys: Iterable[str], *, allow_unsigned: bool = False) -> TrustedKeys:
        """Keys of 64 hex digits each.

        Raises:
            Misconfigured: one is not; the message tells its place in the list, not its text.
        """
        found: list[bytes] = []
        for place, text in enumerate(keys, start=1):
            if not _KEY.fullmatch(text.strip()):
                raise Misconfigured(f"trusted key {place} is not an Ed25519 public key of 64 hex digits")
            key = bytes.fromhex(text.strip())
            if key not in found:
                found.append(key)
        return cls(tuple(found), allow_unsigned)

    @classmethod
    def from_settings(cls, settings: Settings) -> TrustedKeys:
        """What MARKETPLACE_PUBKEY, MARKETPLACE_PUBKEYS and ALLOW_UNSIGNED_BUNDLES say. Raises as `from_hex` does."""
        return cls.from_hex(settings.all_trusted_keys, allow_unsigned=settings.allow_unsigned_bundles)


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle that may be installed. `signer` is the hex public key that verified it, '' when it went unsigned."""

    digest: str
    signer: str
    key_id: str = ""
    developer_name: str = ""


def sign(
    content: bytes,
    key: SigningKey,
    *,
    key_id: str = "",
    developer_id: str = "",
    developer_name: str = "",
    signed_at: datetime.datetime | None = None,
    checksums: bool = True,
) -> Signature:
    """Sign a bundle. `signed_at` defaults to now; `checksums` false leaves the list of entries out.

    Raises:
        BundleRefused: the content is not a bundle that could be read.
    """
    digest = hashlib.sha256(content).digest()
    moment = (signed_at or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC).replace(microsecond=0)
    return Signature(
        algorithm=ALGORITHM,
        digest=digest.hex(),
        value=key.sign(digest).signature.hex(),
        key_id=key_id,
        developer_id=developer_id,
        developer_name=developer_name,
        signed_at=moment.isoformat().replace("+00:00", "Z"),
        checksums=checksums_of(content) if checksums else None,
    )


def checksums_of(content: bytes) -> dict[str, str]:
    """Hex SHA-256 of every entry. Raises BundleRefused as `read_archive` does."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in read_archive(content).items()}


def verify(content: bytes, signature: Signature | None, trusted: TrustedKeys) -> Verified:
    """Whether `content` may be installed, and who signed it. CPU-bound when the signature lists checksums.

    Raises:
        SignatureRefused: it may not; `code` says why: no_trusted_keys, unsigned, algorithm, malformed,
            digest_mismatch, untrusted, checksum_mismatch, checksum_missing, checksum_undeclared.
        BundleRefused: the signature lists checksums and the content is not a bundle that could be read.
    """
    digest = hashlib.sha256(content).digest()
    if not trusted.keys and not trusted.allow_unsigned:
        raise SignatureRefused(
            "no key is trusted: set MARKETPLACE_PUBKEYS, or ALLOW_UNSIGNED_BUNDLES=true for development",
            code="no_trusted_keys",
        )
    if signature is None:
        if trusted.keys:
            raise SignatureRefused(
                "the bundle is not signed: send the signature with it, which `metacore bundle sign` makes",
                code="unsigned",
            )
        return Verified(digest.hex(), "")
    _check_form(signature)
    if not hmac.compare_digest(bytes.fromhex(signature.digest), digest):
        raise SignatureRefused(
            f"the signature is for digest {signature.digest.lower()}, the bundle has {digest.hex()}",
            code="digest_mismatch",
        )
    signer = _signer(digest, bytes.fromhex(signature.value), trusted)
    if signature.checksums is not None:
        _compare(signature.checksums, checksums_of(content))
    return Verified(digest.hex(), signer, signature.key_id, signature.developer_name)


def _check_form(signature: Signature) -> None:
    if signature.algorithm != ALGORITHM:
        raise SignatureRefused(
            f"the signature's algorithm is {signature.algorithm[:40]!r}, only {ALGORITHM} is accepted", code="algorithm"
        )
    if not _DIGEST.fullmatch(signature.digest):
        raise SignatureRefused("the signature is malformed: digest is not 64 hex digits", code="malformed")
    if not _VALUE.fullmatch(signature.value):
        raise SignatureRefused("the signature is malformed: value is not 128 hex digits", code="malformed")


def _signer(digest: bytes, value: bytes, trusted: TrustedKeys) -> str:
    for key in trusted.keys:
        try:
            VerifyKey(key).verify(digest, value)
        except (BadSignatureError, CryptoError, ValueError):
            continue
        return key.hex()
    if not trusted.keys:
        return ""
    raise SignatureRefused("no trusted key made this signature", code="untrusted")


def _compare(declared: Mapping[str, str], actual: Mapping[str, str]) -> None:
    for path in sorted(declared):
        if path not in actual:
            raise SignatureRefused(f"{path[:120]!r} is signed for and not in the bundle", code="checksum_missing")
        if declared[path].lower() != actual[path]:
            raise SignatureRefused(f"{path[:120]!r} differs from what was signed", code="checksum_mismatch")
    for path in sorted(actual):
        if path not in declared:
            raise SignatureRefused(f"{path[:120]!r} is in the bundle and not signed for", code="checksum_undeclared")
