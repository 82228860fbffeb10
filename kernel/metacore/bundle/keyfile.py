"""Private keys in files: the hex seed of an Ed25519 key, readable by its owner only."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nacl.signing import SigningKey

from metacore.errors import Conflict, InvalidInput, NotFound

PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644
PUBLIC_SUFFIX = ".pub"
MAX_KEY_FILE = 4_096
_SEED = re.compile(r"[0-9a-fA-F]{64}")


def new_key() -> SigningKey:
    return SigningKey.generate()


def write_key_pair(private: Path, key: SigningKey, *, replace: bool = False) -> Path:
    """Write the key to `private` (0600) and its public half beside it with the suffix .pub; returns that path.

    Raises:
        Conflict: one of them exists and `replace` is false; nothing is written then.
    """
    public = private.with_name(private.stem + PUBLIC_SUFFIX)
    for path in (private, public):
        if not replace and (path.exists() or path.is_symlink()):
            raise Conflict(f"{path} exists already; keys are not overwritten", code="key_exists")
    private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(private, key.encode().hex() + "\n", PRIVATE_MODE)
    _write(public, key.verify_key.encode().hex() + "\n", PUBLIC_MODE)
    return public


def read_private_key(path: Path) -> SigningKey:
    """The key in a file of 64 hex digits.

    Raises:
        NotFound: no such file.
        InvalidInput: it cannot be read or holds something else; the message never shows what.
    """
    return SigningKey(bytes.fromhex(_hex(path, "private")))


def read_public_key(text_or_path: str) -> str:
    """A public key given as 64 hex digits or as a file that holds them, in lower-case hex.

    Raises:
        NotFound, InvalidInput: as `read_private_key` does.
    """
    if _SEED.fullmatch(text_or_path.strip()):
        return text_or_path.strip().lower()
    return _hex(Path(text_or_path), "public").lower()


def _hex(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", code="no_key") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", code="key_file") from None
    text = content.decode("ascii", errors="replace").strip()
    if not _SEED.fullmatch(text):
        raise InvalidInput(f"{path} is not a {what} key: expected 64 hex digits", code="key_file")
    return text


def _write(path: Path, text: str, mode: int) -> None:
    """Write to a new file and put it in place at once, so that no other ever sees half a key or a wider mode."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
