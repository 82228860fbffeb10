"""The keys of PostgreSQL advisory locks, all in one place: two parts that chose the same one would wait for each other.

Addon locks are taken by a hash of their text (`installer.journal`), which meets these by one chance in 2**63.
"""

from __future__ import annotations

from typing import Final

MIGRATION: Final = 0x6D63_6D69_6772_6174
"""One migration at a time in a database ("mcmigrat" in ASCII)."""

RELAY: Final = 0x6D63_7265_6C61_7900
"""The one process that numbers events ("mcrelay" in ASCII)."""
