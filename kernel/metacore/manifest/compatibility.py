"""Which manifests this kernel serves, and whether a version lies in a range."""

from __future__ import annotations

from collections.abc import Mapping

from semver import Version

from metacore.errors import Refused
from metacore.manifest.model import Manifest
from metacore.manifest.ranges import parse_range, parse_version

CONTRACT_VERSIONS: Mapping[str, str] = {"v2": "2.x", "v3": "3.x"}
"""Contract versions served, by manifest version: every release of that major."""


def check_kernel(manifest: Manifest) -> None:
    """Whether this kernel serves a contract version that the manifest asks for.

    Raises:
        Refused: it does not; `code` is `kernel_version`.
    """
    major = int(CONTRACT_VERSIONS[manifest.api].split(".")[0])
    if not parse_range(manifest.kernel).meets(Version(major), Version(major + 1)):
        path = "manifest.kernel" if manifest.api == "v2" else "manifest.compatibility.requires"
        raise Refused(
            f"{path}: the addon asks for kernel {manifest.kernel!r}, this one serves contract"
            f" {CONTRACT_VERSIONS[manifest.api]} for {manifest.api} manifests",
            code="kernel_version",
        )


def satisfies(version: str, range: str) -> bool:
    """Whether `version` lies in `range`; an empty range admits every release.

    Raises:
        InvalidInput: one of them cannot be read.
    """
    return parse_range(range).admits(parse_version(version))
