"""The Addons of the cluster as last seen. Knows no clock and no queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from metacore.errors import InvalidInput
from metacore_operator.resources.addon import API_VERSION, KIND, Addon, Metadata, parse_addon
from metacore_operator.resources.spec import AddonSpec
from metacore_operator.resources.status import AddonStatus, Phase


@dataclass(frozen=True, slots=True)
class Record:
    """`problem` says why the spec cannot be understood; then `addon` holds the spec that was there before, or one that
    means nobody. `held` says that the finalizer is there, without which nothing may be installed.
    """

    addon: Addon
    problem: str = ""
    held: bool = False
    deleting: bool = False

    @property
    def wish(self) -> tuple[str, int, bool, tuple[str, ...], bool, bool]:
        """Changes when the Addon wants a reconcile, and not when only the status or somebody's annotation did."""
        metadata = self.addon.metadata
        return (
            metadata.uid,
            metadata.generation,
            self.held,
            self.addon.wishes,
            self.deleting,
            bool(self.problem),
        )


class Ledger:
    def __init__(self, finalizer: str) -> None:
        self._finalizer = finalizer
        self._records: dict[str, Record] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._records)

    def by_phase(self) -> Mapping[str, int]:
        """How many Addons are in each phase, those of which there are none as well."""
        phases = [record.addon.status.phase for record in self._records.values()]
        return {phase.value: phases.count(phase) for phase in Phase}

    def get(self, name: str) -> Record | None:
        return self._records.get(name)

    def see(self, document: Mapping[str, Any]) -> tuple[str, bool]:
        """Take over an object as the API server shows it: its `namespace/name`, and whether that is a new wish.

        Of an object that is known the status stays as it was written last: this process alone writes it, and what is
        seen may be older.
        """
        record = read_record(document, self._finalizer)
        name = record.addon.full_name
        known = self._records.get(name)
        if known is not None and known.addon.metadata.uid == record.addon.metadata.uid:
            spec = known.addon.spec if record.problem else record.addon.spec
            addon = record.addon.model_copy(update={"status": known.addon.status, "spec": spec})
            record = replace(record, addon=addon)
        self._records[name] = record
        return name, known is None or known.wish != record.wish

    def set_status(self, name: str, uid: str, status: AddonStatus) -> None:
        record = self._records.get(name)
        if record is not None and record.addon.metadata.uid == uid:
            self._records[name] = replace(record, addon=record.addon.model_copy(update={"status": status}))

    def forget(self, name: str, uid: str) -> bool:
        """Whether that very object was known."""
        record = self._records.get(name)
        if record is None or record.addon.metadata.uid != uid:
            return False
        del self._records[name]
        return True


def read_record(document: Mapping[str, Any], finalizer: str) -> Record:
    """What an object of the API server means. It never raises: whatever was admitted must also be told and deleted."""
    metadata = document["metadata"]
    held = finalizer in (metadata.get("finalizers") or ())
    deleting = bool(metadata.get("deletionTimestamp"))
    spec = document.get("spec") or {}
    base = {"apiVersion": API_VERSION, "kind": KIND, "metadata": _metadata(metadata)}
    status = _status(base, document.get("status"))
    try:
        return Record(parse_addon({**base, "spec": spec, "status": status}), "", held, deleting)
    except InvalidInput as error:
        addon = Addon(
            api_version="metacore.dev/v1alpha1",
            kind="Addon",
            metadata=Metadata.model_validate(base["metadata"]),
            spec=_harmless(spec, metadata),
            status=AddonStatus.model_validate(status),
        )
        return Record(addon, error.message, held, deleting)


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("name", "namespace", "uid", "generation", "labels", "annotations")
    return {key: metadata[key] for key in wanted if metadata.get(key) is not None}


def _status(base: Mapping[str, Any], status: Any) -> dict[str, Any]:
    """The status, or none when another version wrote what this one does not know."""
    minimal = {"source": {"path": "none"}, "organizations": {"names": ["none"]}, "key": "none"}
    try:
        parse_addon({**base, "spec": minimal, "status": status or {}})
    except InvalidInput:
        return {}
    return dict(status or {})


def _harmless(spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> AddonSpec:
    """A spec that names the key and keeps data, for an Addon whose own cannot be understood."""
    key = spec.get("key") if isinstance(spec.get("key"), str) else None
    values: dict[str, Any] = {"source": {"path": "none"}, "organizations": {"names": ["none"]}}
    values["key"] = key or str(metadata["name"]).replace("-", "_")[:48]
    if spec.get("deletionPolicy") == "Drop":
        values["deletionPolicy"] = "Drop"
    return AddonSpec.model_validate(values)
