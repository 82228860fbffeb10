"""YAML files as Addons: what counts, what is told as broken, and what is kept about each."""

from __future__ import annotations

from pathlib import Path

import pytest

from metacore_operator.folder.documents import Contents, read_folder
from metacore_operator.folder.ledger import Ledger
from metacore_operator.folder.store import Store, stable_uid
from metacore_operator.resources.status import Phase

ADDON = """\
apiVersion: metacore.dev/v1alpha1
kind: Addon
metadata:
  name: {name}
spec:
  source: {{path: {name}.tar.gz}}
  organizations: {{all: true}}
  settings: {{since: 2026-01-01}}
"""


def text(name: str = "tickets", extra: str = "") -> str:
    return ADDON.format(name=name) + extra


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "addons"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "addons")


def ledger_of(store: Store) -> Ledger:
    ledger = Ledger(store)
    ledger.load()
    return ledger


def problems(contents: Contents) -> list[tuple[str, str]]:
    return [(item.place, item.name) for item in contents.broken]


def test_several_documents_in_a_file_and_foreign_ones_between(root: Path) -> None:
    foreign = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"
    (root / "all.yaml").write_text("---\n".join([text("tickets"), foreign, "", text("billing")]))
    (root / "notes.txt").write_text("not YAML: [")
    (root / ".hidden.yaml").write_text("not YAML: [")

    contents = read_folder(root)

    assert [item.addon.metadata.name for item in contents.declared] == ["tickets", "billing"]
    assert contents.broken == ()


def test_a_broken_document_is_told_with_its_place_and_the_others_go_on(root: Path) -> None:
    (root / "a.yaml").write_text(text("tickets", "  bogus: 1\n") + "---\n" + text("billing"))
    (root / "b.yaml").write_text(text("orders"))

    contents = read_folder(root)

    assert [item.addon.metadata.name for item in contents.declared] == ["billing", "orders"]
    assert problems(contents) == [("a.yaml, document 1", "default/tickets")]
    assert contents.broken[0].message == "spec.bogus: unknown key"


def test_the_first_of_two_with_one_name_counts(root: Path) -> None:
    (root / "a.yaml").write_text(text())
    (root / "b.yaml").write_text(text())

    contents = read_folder(root)

    assert [item.file for item in contents.declared] == ["a.yaml"]
    assert "already declared in a.yaml" in contents.broken[0].message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a: [1\nb: 2", "line 2"),
        (b"\xff\xfe", "UTF-8"),
        (b"a: 1\na: 2", "'a' stands twice"),
        (b"a: &a {x: 1}\nb: {<<: *a}", "merge keys"),
        (b"a: &a [*a]", "more than"),
        (b"a: &a [x, x, x]\nb: &b [*a, *a, *a]\n" + b"c: [" + b"*b, " * 5000 + b"]", "more than"),
        (b"[" * 5000, "too deeply"),
        (b"a: !!python/object/apply:os.getcwd []", "constructor"),
        (b"a: !!int x", "bad value"),
        (b"x" * (1024 * 1024 + 1), "larger than"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_as_a_whole(root: Path, content: bytes, words: str) -> None:
    (root / "bad.yaml").write_bytes(content)
    (root / "good.yaml").write_text(text())

    contents = read_folder(root)

    assert problems(contents) == [("bad.yaml", "")]
    assert words in contents.broken[0].message
    assert contents.unsettled == {"bad.yaml"}
    assert [item.file for item in contents.declared] == ["good.yaml"]


def test_uid_is_stable_and_generation_rises_only_with_the_spec(root: Path, store: Store) -> None:
    (root / "a.yaml").write_text(text())
    ledger = ledger_of(store)
    assert ledger.apply(read_folder(root)).wanted == {"default/tickets"}
    first = ledger.get("default/tickets")
    assert first is not None
    assert first.addon.metadata.uid == stable_uid("default", "tickets")
    assert first.addon.metadata.generation == 1

    (root / "a.yaml").write_text("# a comment\n" + text())
    restarted = ledger_of(store)
    assert restarted.apply(read_folder(root)).wanted == frozenset()

    (root / "a.yaml").write_text(text(extra="  enabled: false\n"))
    assert restarted.apply(read_folder(root)).wanted == {"default/tickets"}
    second = restarted.get("default/tickets")
    assert second is not None
    assert second.addon.metadata.generation == 2
    assert second.addon.metadata.uid == first.addon.metadata.uid


def test_status_survives_a_restart_and_its_file_is_private(root: Path, store: Store, tmp_path: Path) -> None:
    (root / "a.yaml").write_text(text())
    ledger = ledger_of(store)
    ledger.apply(read_folder(root))
    record = ledger.get("default/tickets")
    assert record is not None
    ledger.set_status("default/tickets", record.addon.status.model_copy(update={"phase": Phase.READY}))

    file = tmp_path / "data" / "addons" / "tickets.status.json"
    assert file.stat().st_mode & 0o777 == 0o600
    again = ledger_of(store).get("default/tickets")
    assert again is not None and again.addon.status.phase is Phase.READY


def test_what_was_removed_while_nobody_looked_is_missing_afterwards(root: Path, store: Store) -> None:
    (root / "a.yaml").write_text(text())
    ledger_of(store).apply(read_folder(root))
    (root / "a.yaml").unlink()

    changes = ledger_of(store).apply(read_folder(root))

    assert changes.missing == {"default/tickets"}


@pytest.mark.parametrize("broken", ["", "a: [", text(extra="  bogus: 1\n"), "metadata: 3\n"])
def test_a_file_that_broke_deletes_nothing(root: Path, store: Store, broken: str) -> None:
    (root / "a.yaml").write_text(text())
    ledger = ledger_of(store)
    ledger.apply(read_folder(root))

    (root / "a.yaml").write_text(broken or " ")
    changes = ledger.apply(read_folder(root))

    assert changes.missing == frozenset()
    assert set(changes.broken) == {"default/tickets"}
    assert ledger.apply(read_folder(root)).broken == {}, "it is told once"

    (root / "a.yaml").write_text(text())
    assert ledger.apply(read_folder(root)).wanted == {"default/tickets"}, "mended, it is looked at again"


def test_a_document_taken_out_of_a_good_file_is_missing(root: Path, store: Store) -> None:
    (root / "a.yaml").write_text(text("tickets") + "---\n" + text("billing"))
    ledger = ledger_of(store)
    ledger.apply(read_folder(root))

    (root / "a.yaml").write_text(text("billing"))

    assert ledger.apply(read_folder(root)).missing == {"default/tickets"}


def test_declared_again_while_being_deleted_starts_over(root: Path, store: Store) -> None:
    (root / "a.yaml").write_text(text())
    ledger = ledger_of(store)
    ledger.apply(read_folder(root))
    ledger.mark_deleting("default/tickets")

    assert ledger_of(store).get("default/tickets").deleting  # type: ignore[union-attr]
    assert ledger.apply(read_folder(root)).wanted == {"default/tickets"}
    assert not ledger.get("default/tickets").deleting  # type: ignore[union-attr]


def test_problems_are_kept_for_readers(root: Path, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "data" / "addons" / "problems.json"
    ledger = ledger_of(store)
    (root / "a.yaml").write_text("a: [")
    ledger.apply(read_folder(root))
    assert '"a.yaml"' in file.read_text()

    (root / "a.yaml").unlink()
    ledger.apply(read_folder(root))
    assert file.read_text().strip() == "[]"


def test_an_unreadable_record_stops_nothing(store: Store, tmp_path: Path) -> None:
    store.load()
    (tmp_path / "data" / "addons" / "junk.status.json").write_text("{")

    assert store.load() == {}
