"""Which keys may sign bundles: an administrator's files and settings, read again when they change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metacore.bundle.signature import TrustedKeys
from metacore.errors import Misconfigured

KEY_HEX_DIGITS = 64


class Trust:
    """Public keys of `files` (one in hex a line; `#` starts a comment) together with the fixed `keys`.

    A file that is gone trusts nobody, so removing one takes effect. A file that cannot be understood is an error, and
    what was trusted before stays until it is mended.
    """

    def __init__(self, files: Sequence[Path] = (), keys: Sequence[str] = (), *, allow_unsigned: bool = False) -> None:
        self.files = tuple(files)
        self._keys = tuple(keys)
        self._allow_unsigned = allow_unsigned
        self._current = self._read()

    def current(self) -> TrustedKeys:
        return self._current

    def reload(self) -> bool:
        """Read the files again; true when the trusted keys changed.

        Raises:
            Misconfigured: a file that cannot be read or understood, with the line.
        """
        before, self._current = self._current, self._read()
        return before != self._current

    def _read(self) -> TrustedKeys:
        keys = [*self._keys]
        for file in self.files:
            keys.extend(read_keys(file))
        return TrustedKeys.from_hex(list(dict.fromkeys(keys)), allow_unsigned=self._allow_unsigned)


def read_keys(file: Path) -> list[str]:
    """The public keys in `file`, none when it does not exist.

    Raises:
        Misconfigured: naming the file and the line.
    """
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read the trusted keys in {file}: {error}") from error
    return parse_keys(text, str(file))


def parse_keys(text: str, origin: str) -> list[str]:
    """The public keys in `text`, one in hex a line; `#` starts a comment.

    Raises:
        Misconfigured: naming `origin` and the line.
    """
    keys: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        key = line.split("#", 1)[0].strip().lower()
        if not key:
            continue
        if len(key) != KEY_HEX_DIGITS or not all(digit in "0123456789abcdef" for digit in key):
            raise Misconfigured(f"{origin}, line {number}: expected an Ed25519 public key as 64 hex digits")
        keys.append(key)
    return keys
