"""The version of this build, as it stands in replies, heartbeats and the console."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("metacore")
