"""Bundles that `metacore dev` makes itself: those whose Addon says `metacore.dev/build-from: <folder>`.

A bundle that is there is left alone, whatever it holds: replacing a changed one would hide the change. Only one that is
exactly what its signature speaks of, signed by a key that we do not have, is made again from its sources.

Code that needs a compiler takes its time and may have none: such addons are built while the kernel runs already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

from metacore.bundle.keyfile import new_key, read_private_key, write_key_pair
from metacore.bundle.signature import Signature, TrustedKeys, sign, verify
from metacore.bundle.write import pack_folder
from metacore.cli.addon_code import QUICK, compile_code, language_of
from metacore.errors import MetacoreError, NotFound, Refused, SignatureRefused
from metacore_operator.folder.documents import read_folder
from metacore_operator.sources.folder import SIGNATURE_SUFFIX

DEVELOPER = "metacore dev on this machine"
BUILD_FROM = "metacore.dev/build-from"


@dataclass(frozen=True, slots=True)
class Build:
    """`problem` is '' when the bundle was made."""

    addon: str
    path: str
    problem: str = ""


def build_missing(root: Path, key: SigningKey, names: Collection[str] | None = None) -> Sequence[Build]:
    """Make and sign what the Addons in `root` ask for and what is not there, and say what was done.

    Without `names` everything that needs no compiler from outside; with them these Addons only (`needing_compilers`).
    """
    builds: list[Build] = []
    for name, folder, path in _asked_for(root):
        try:
            slow = _language(root, folder) not in QUICK
            if (name in names if names is not None else not slow) and _build(root, folder, path, key):
                builds.append(Build(name, path))
        except MetacoreError as error:
            builds.append(Build(name, path, error.message))
        except OSError as error:
            builds.append(Build(name, path, f"{error.strerror}: {error.filename}"))
    return builds


def needing_compilers(root: Path, key: SigningKey) -> Mapping[str, str]:
    """The Addons in `root` whose bundles are to be made of code that needs a compiler, with the language of each."""
    found: dict[str, str] = {}
    for name, folder, path in _asked_for(root):
        try:
            language = _language(root, folder)
            if language not in QUICK and not _is_ours(_inside(root, path), key):
                found[name] = language
        except (MetacoreError, OSError):
            continue  # Whoever builds it says what is wrong with it.
    return found


def _asked_for(root: Path) -> Iterator[tuple[str, str, str]]:
    for declared in read_folder(root).declared:
        addon = declared.addon
        folder, path = addon.metadata.annotations.get(BUILD_FROM), addon.spec.source.path
        if folder is not None and path is not None:
            yield addon.full_name, folder, path


def _language(root: Path, folder: str) -> str:
    return language_of(_inside(root, folder))


def _is_ours(bundle: Path, key: SigningKey) -> bool:
    """Whether the bundle is there and carries a signature of `key`."""
    try:
        spoken = Signature.from_json(bundle.with_name(bundle.name + SIGNATURE_SUFFIX).read_bytes())
        verify(bundle.read_bytes(), spoken, TrustedKeys((bytes(key.verify_key),), allow_unsigned=False))
    except (FileNotFoundError, SignatureRefused):
        return False
    return True


def load_or_make_key(file: Path) -> SigningKey:
    """The development key, made at the first call.

    Raises:
        MetacoreError: the file cannot be read, or holds something else.
    """
    try:
        return read_private_key(file)
    except NotFound:
        key = new_key()
        write_key_pair(file, key)
        return key


def _build(root: Path, folder: str, path: str, key: SigningKey) -> bool:
    bundle, sources = _inside(root, path), _inside(root, folder)
    signature = bundle.with_name(bundle.name + SIGNATURE_SUFFIX)
    if _is_ours(bundle, key):
        return False
    compile_code(sources)
    content = pack_folder(sources)
    if bundle.exists() and not _may_replace(bundle.read_bytes(), signature, content, key):
        return False
    bundle.parent.mkdir(parents=True, exist_ok=True)
    # The signature first: a bundle must never be seen with the signature of another one for longer than this.
    _replace(signature, json.dumps(sign(content, key, developer_name=DEVELOPER).as_json(), indent=2).encode() + b"\n")
    _replace(bundle, content)
    return True


def _may_replace(there: bytes, signature: Path, made: bytes, key: SigningKey) -> bool:
    try:
        spoken = Signature.from_json(signature.read_bytes())
    except FileNotFoundError:
        return there == made
    except SignatureRefused:
        return False
    try:
        verify(there, spoken, TrustedKeys((bytes(key.verify_key),), allow_unsigned=False))
    except SignatureRefused as error:
        return error.code == "untrusted"
    return False


def _inside(root: Path, path: str) -> Path:
    """Raises:
    Refused: a path out of the addons folder.
    """
    found = (root / path).resolve()
    if not found.is_relative_to(root.resolve()):
        raise Refused(f"{path!r} leads out of the addons folder")
    return found


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_bytes(content)
    temporary.replace(file)
