"""Files that a manifest speaks of, looked up in the bundle. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from metacore.bundle import paths
from metacore.bundle.read import read_translations
from metacore.errors import Problem
from metacore.manifest.model import Manifest


def missing_files(manifest: Manifest, files: Mapping[str, bytes]) -> list[Problem]:
    """What the manifest names and the bundle lacks, with JSON paths: the wasm module, the frontend's entry, files of
    translations, SQL of upgrade steps."""
    found: list[Problem] = []
    backend, frontend = manifest.backend, manifest.frontend
    if backend is not None and backend.runtime == "wasm" and backend.entry not in files:
        found.append(Problem("manifest.backend.entry", "missing_file", f"{backend.entry!r} is not in the bundle"))
    if frontend is not None and (path := frontend_path(manifest.key, frontend.entry)) and path not in files:
        found.append(Problem("manifest.frontend.entry", "missing_file", f"{path!r} is not in the bundle"))
    for locale, path in manifest.i18n_files:
        if read_translations(files.get(path)) is None:
            what = "is not in the bundle" if path not in files else "is not a JSON object of translations"
            found.append(Problem("manifest.i18n.bundles", "missing_file", f"{path!r} for {locale} {what}"))
    for index, step in enumerate(manifest.lifecycle.get("upgrade", ())):
        if step["type"] == "sql" and step["function"] not in files:
            field = f"manifest.lifecycle.upgrade[{index}].function"
            found.append(Problem(field, "missing_file", f"{step['function']!r} is not in the bundle"))
    return found


def frontend_path(addon_key: str, entry: str) -> str:
    """The path in the bundle of a frontend's entry: `remoteEntry.js`, `frontend/remoteEntry.js`, or the URL under
    which kernels serve it; '' when it is somewhere else on the web."""
    if entry.startswith(("http://", "https://")):
        return ""
    served = f"/metacore/addons/{addon_key}/frontend/"
    _, found, rest = entry.partition(served)
    if found:
        return paths.FRONTEND + rest.split("?")[0]
    if entry.startswith("/"):
        return ""
    relative = entry.removeprefix("./").split("?")[0]
    return relative if relative.startswith(paths.FRONTEND) else paths.FRONTEND + relative
