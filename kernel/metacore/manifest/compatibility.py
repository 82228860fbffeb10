"""Which manifests this kernel serves, and whether a version lies in a range."""

from __future__ import annotations

from collections.abc import Mapping

from semver import Version

from metacore.errors import Problem, Refused
from metacore.manifest.identity import KERNEL
from metacore.manifest.model import Manifest
from metacore.manifest.ranges import parse_range, parse_version

CONTRACT_VERSIONS: Mapping[str, str] = {"v2": "2.x", "v3": "3.x"}
"""Contract versions served, by manifest version: every release of that major."""


def check_kernel(manifest: Manifest) -> None:
    """Whether this kernel serves a contract version that the manifest asks for.

    Raises:
        Refused: it does not; `code` is `kernel_version`, and the problem names where the range stands.
    """
    major = int(CONTRACT_VERSIONS[manifest.api].split(".")[0])
    if not parse_range(manifest.kernel).meets(Version(major), Version(major + 1)):
        path = _path_of_range(manifest)
        message = (
            f"the addon asks for kernel {manifest.kernel!r}, this one serves contract"
            f" {CONTRACT_VERSIONS[manifest.api]} for {manifest.api} manifests"
        )
        raise Refused(f"{path}: {message}", code="kernel_version", problems=[Problem(path, "kernel_version", message)])


def satisfies(version: str, range: str) -> bool:
    """Whether `version` lies in `range`; an empty range admits every release.

    Raises:
        InvalidInput: one of them cannot be read.
    """
    return parse_range(range).admits(parse_version(version))


def _path_of_range(manifest: Manifest) -> str:
    """The JSON path of the kernel's version range, which decides nothing here where it is not written at all."""
    if manifest.api == "v2":
        return "manifest.kernel"
    requires = manifest.raw.get("compatibility", {}).get("requires", ())
    for index, item in enumerate(requires):
        if isinstance(item, Mapping) and item.get("key") == KERNEL:
            return f"manifest.compatibility.requires[{index}].version"
    return "manifest.compatibility.requires"
