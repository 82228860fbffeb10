"""Secrets at rest: sealed with the master key, which only the environment of a process holds.

The sealed text is `<key id>:<base64>`; the key id tells which master key opens it and reveals nothing of the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from metacore.errors import Misconfigured

KEY_BYTES = 32


class Sealer:
    """Seals and opens with one 32-byte master key (XSalsa20-Poly1305, a random nonce each time)."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != KEY_BYTES:
            raise Misconfigured(f"the master key must have {KEY_BYTES} bytes, this one has {len(master_key)}")
        self._box = SecretBox(master_key)
        self.key_id = hashlib.sha256(b"metacore master key" + master_key).hexdigest()[:8]

    @classmethod
    def from_hex(cls, text: str) -> Sealer | None:
        """The sealer of a key in hex, as METACORE_MASTER_KEY has it; None for ''.

        Raises:
            Misconfigured: not 64 hex digits.
        """
        if not text:
            return None
        try:
            return cls(bytes.fromhex(text))
        except ValueError:
            raise Misconfigured("METACORE_MASTER_KEY must be 64 hex digits (32 bytes)") from None

    def seal(self, secret: bytes) -> str:
        return f"{self.key_id}:{base64.b64encode(self._box.encrypt(secret)).decode()}"

    def open(self, sealed: str) -> bytes:
        """The secret in `sealed`.

        Raises:
            Misconfigured: it was sealed with another master key, or it was changed.
        """
        key_id, _, text = sealed.partition(":")
        if key_id != self.key_id:
            raise Misconfigured(f"sealed with master key {key_id[:8]!r}; the configured one is {self.key_id!r}")
        try:
            return self._box.decrypt(base64.b64decode(text, validate=True))
        except (CryptoError, binascii.Error, ValueError):
            raise Misconfigured("a sealed secret cannot be opened: it was changed since it was written") from None

    def holds(self, sealed: str, secret: bytes) -> bool:
        """Whether `sealed` is this very secret under this master key."""
        try:
            return hmac.compare_digest(self.open(sealed), secret)
        except Misconfigured:
            return False
