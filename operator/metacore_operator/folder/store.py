"""What a cluster would keep in etcd: each Addon with uid, generation and status, as one JSON file beside the data."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metacore.errors import InvalidInput
from metacore.logs import get_logger
from metacore_operator.folder.documents import Broken
from metacore_operator.resources.addon import Addon, parse_addon
from metacore_operator.resources.status import AddonStatus

log = get_logger(__name__)

SUFFIX = ".status.json"
SECRETS = ".secrets.json"
PROBLEMS = "problems.json"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://metacore.dev/addons")


@dataclass(frozen=True, slots=True)
class Record:
    """`addon` as last declared, with everything that the folder itself cannot hold. `file` declared it.

    `deleting` is set once the declaration is gone for good, so that a removal that was interrupted goes on.
    """

    addon: Addon
    file: str
    deleting: bool = False


def stable_uid(namespace: str, name: str) -> str:
    """The uid of an Addon in folder mode: the same for the same name, on every machine."""
    return str(uuid.uuid5(NAMESPACE, f"{namespace}/{name}"))


def admit(declared: Addon, known: Record | None) -> Addon:
    """`declared` with uid, generation and status, as an API server gives them: a new spec is a new generation."""
    metadata = declared.metadata.model_copy(
        update={"uid": stable_uid(declared.metadata.namespace, declared.metadata.name), "generation": 1}
    )
    if known is None:
        return declared.model_copy(update={"metadata": metadata, "status": AddonStatus()})
    before = known.addon
    changed = before.spec != declared.spec
    metadata = metadata.model_copy(update={"generation": before.metadata.generation + changed})
    return declared.model_copy(update={"metadata": metadata, "status": before.status})


class Store:
    """Records in `folder`, one file each. Specs may hold settings that are nobody's business: files have mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> dict[str, Record]:
        """Every record by `namespace/name`. A file that cannot be understood is reported and passed over."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        records: dict[str, Record] = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                document = json.loads(path.read_bytes())
                bookkeeping = document.pop("folder")
                addon = parse_addon(document)
                records[addon.full_name] = Record(addon, str(bookkeeping["file"]), bool(bookkeeping["deleting"]))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidInput) as error:
                log.error("addon.status_unreadable", file=path.name, error=str(error))
        return records

    def save(self, record: Record) -> None:
        document = record.addon.model_dump(mode="json", exclude_none=True)
        document["folder"] = {"file": record.file, "deleting": record.deleting}
        write_document(file_of(self._folder, record.addon, SUFFIX), document)

    def save_problems(self, broken: Sequence[Broken]) -> None:
        """Tell in `problems.json` what in the folder cannot be understood, also where no Addon could carry it."""
        document = [{"place": item.place, "addon": item.name, "message": item.message} for item in broken]
        write_document(self._folder / PROBLEMS, document)

    def forget(self, addon: Addon) -> None:
        for suffix in (SUFFIX, SECRETS):
            file_of(self._folder, addon, suffix).unlink(missing_ok=True)


def file_of(folder: Path, addon: Addon, suffix: str) -> Path:
    # Neither namespaces nor names hold a dot, so the two kinds of file names cannot meet.
    metadata = addon.metadata
    prefix = "" if metadata.namespace == "default" else f"{metadata.namespace}."
    return folder / f"{prefix}{metadata.name}{suffix}"


def write_document(path: Path, document: object) -> None:
    """Write JSON with mode 0600. A reader, or a crash, sees the old or the new file and nothing in between."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
