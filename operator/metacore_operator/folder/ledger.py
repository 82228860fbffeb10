"""What the folder declared so far, held against what it declares now. Knows no clock and no queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from metacore_operator.folder.documents import Broken, Contents
from metacore_operator.folder.store import Record, Store, admit
from metacore_operator.resources.addon import Addon
from metacore_operator.resources.status import AddonStatus


@dataclass(frozen=True, slots=True)
class Changes:
    """`wanted` have a new spec (or came back), `missing` are no longer declared, `broken` cannot be understood now."""

    wanted: frozenset[str]
    missing: frozenset[str]
    broken: Mapping[str, Broken]
    problems: tuple[Broken, ...]


class Ledger:
    """Every Addon by `namespace/name`, kept in step with its file in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[str, Record] = {}
        self.broken: Mapping[str, Broken] = {}
        self.missing: frozenset[str] = frozenset()
        self._problems: tuple[Broken, ...] = ()

    def load(self) -> None:
        self._records = self._store.load()

    def get(self, name: str) -> Record | None:
        return self._records.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._records)

    def apply(self, contents: Contents) -> Changes:
        """Take over what the folder declares now. Nothing is deleted here: what is not declared is only `missing`.

        `problems` of the result are those that were not there the last time.
        """
        wanted: set[str] = set()
        for declared in contents.declared:
            name = declared.addon.full_name
            known = self._records.get(name)
            record = Record(admit(declared.addon, known), declared.file)
            if record != known:
                self._put(record)
            new_wish = (
                known is None
                or record.addon.metadata.generation != known.addon.metadata.generation
                or record.addon.wishes != known.addon.wishes
            )
            if new_wish or (known is not None and known.deleting) or name in self.broken or name in self.missing:
                wanted.add(name)
        declared_names = {declared.addon.full_name for declared in contents.declared}
        whole_files = {item.file: item for item in contents.broken if not item.name}
        broken = {item.name: item for item in contents.broken if item.name in self._records}
        missing: set[str] = set()
        for name, record in self._records.items():
            if name in declared_names or name in broken or record.deleting:
                continue
            if record.file in contents.unsettled:
                broken[name] = whole_files[record.file]
            else:
                missing.add(name)
        problems = tuple(item for item in contents.broken if item not in self._problems)
        newly_broken = {name: item for name, item in broken.items() if self.broken.get(name) != item}
        if contents.broken != self._problems:
            self._store.save_problems(contents.broken)
        self._problems, self.broken, self.missing = contents.broken, broken, frozenset(missing)
        return Changes(frozenset(wanted), self.missing, newly_broken, problems)

    def mark_deleting(self, name: str) -> Record:
        record = replace(self._records[name], deleting=True)
        self._put(record)
        self.missing -= {name}
        return record

    def set_status(self, name: str, status: AddonStatus) -> Addon | None:
        """Keep `status`; the declaration may have changed meanwhile, or be gone (then None)."""
        record = self._records.get(name)
        if record is None:
            return None
        if record.addon.status != status:
            record = replace(record, addon=record.addon.model_copy(update={"status": status}))
            self._put(record)
        return record.addon

    def forget(self, name: str) -> None:
        record = self._records.pop(name)
        self._store.forget(record.addon)

    def _put(self, record: Record) -> None:
        self._records[record.addon.full_name] = record
        self._store.save(record)
