"""Where the command keeps things that belong to a person or a machine rather than to a project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT_HOME = Path("/var/lib/metacore")
"""For root: the embedded PostgreSQL opens every parent folder of its data to others, which a home must not be."""


def data_home() -> Path:
    """METACORE_HOME when it is set, else /var/lib/metacore for root, else the user's data folder; it may not exist."""
    given = os.environ.get("METACORE_HOME", "")
    if given:
        return Path(given).expanduser().absolute()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return ROOT_HOME
    return _user_data()


def cache_home() -> Path:
    """XDG_CACHE_HOME or ~/.cache, and in it metacore: what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "metacore"


def default_key_path() -> Path:
    """The private key that development signs with; its public half is `dev.pub` beside it."""
    return data_home() / "keys" / "dev.key"


def _user_data() -> Path:
    try:
        from platformdirs import user_data_path
    except ImportError:  # It comes with the embedded extra only.
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "metacore"
        base = os.environ.get("XDG_DATA_HOME", "")
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share") / "metacore"
    return user_data_path("metacore", appauthor=False)
