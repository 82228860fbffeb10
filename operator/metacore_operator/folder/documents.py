"""YAML files as Addons. A file or document that cannot be one becomes a problem with its place; the others go on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metacore.errors import InvalidInput
from metacore_operator.resources.addon import GROUP, Addon, parse_addon

SUFFIXES = frozenset({".yaml", ".yml"})
LARGEST_FILE = 1024 * 1024
MOST_NODES = 20_000
"""Values in one document after aliases are followed: a short text can spell billions of them."""


@dataclass(frozen=True, slots=True)
class Declared:
    """`file` is the file's name in the folder, `document` counts from one."""

    addon: Addon
    file: str
    document: int


@dataclass(frozen=True, slots=True)
class Broken:
    """`name` is `namespace/name` where the document tells it, else ''. `whole_file` when nothing of it was read."""

    file: str
    document: int
    name: str
    message: str
    whole_file: bool = False

    @property
    def place(self) -> str:
        return self.file if self.whole_file else f"{self.file}, document {self.document}"


@dataclass(frozen=True, slots=True)
class Contents:
    """`unsettled` are files that hold more than could be read: what they declared before is not deleted yet."""

    declared: tuple[Declared, ...] = ()
    broken: tuple[Broken, ...] = ()
    unsettled: frozenset[str] = frozenset()


def read_folder(root: Path) -> Contents:
    """Everything that the YAML files directly in `root` declare, files in name order.

    Of two documents with the same namespace and name the first counts.
    """
    declared: dict[str, Declared] = {}
    broken: list[Broken] = []
    unsettled: set[str] = set()
    for path in sorted(path for path in root.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(".")):
        for item in read_file(path):
            if isinstance(item, Broken):
                broken.append(item)
                if not item.name:
                    unsettled.add(item.file)
            elif (first := declared.get(item.addon.full_name)) is not None:
                message = f"Addon {item.addon.full_name} is already declared in {first.file}"
                broken.append(Broken(item.file, item.document, "", message))
            else:
                declared[item.addon.full_name] = item
    return Contents(tuple(declared.values()), tuple(broken), frozenset(unsettled))


def read_file(path: Path) -> Iterator[Declared | Broken]:
    try:
        content = path.read_bytes()[: LARGEST_FILE + 1]
        if len(content) > LARGEST_FILE:
            raise InvalidInput(f"larger than {LARGEST_FILE} bytes")
        text = content.decode("utf-8")
        if not text.strip():
            raise InvalidInput("the file is empty")
        documents = list(_load(text))
    except FileNotFoundError:
        return
    except OSError as error:
        yield Broken(path.name, 0, "", f"cannot be read: {error.strerror}", whole_file=True)
        return
    except UnicodeDecodeError as error:
        yield Broken(path.name, 0, "", f"is not UTF-8 (byte {error.start})", whole_file=True)
        return
    except yaml.YAMLError as error:
        yield Broken(path.name, 0, "", f"is not YAML: {_yaml_problem(error)}", whole_file=True)
        return
    except (RecursionError, ValueError) as error:
        # Nested beyond reason, or a tagged scalar that is not what its tag says.
        what = "is nested too deeply" if isinstance(error, RecursionError) else f"holds a bad value: {error}"
        yield Broken(path.name, 0, "", what, whole_file=True)
        return
    except InvalidInput as error:
        yield Broken(path.name, 0, "", error.message, whole_file=True)
        return
    for number, document in enumerate(documents, start=1):
        if document is None or not _is_ours(document):
            continue
        try:
            yield Declared(parse_addon(document), path.name, number)
        except InvalidInput as error:
            yield Broken(path.name, number, _full_name(document), error.message)


def _load(text: str) -> Iterator[Any]:
    for document in yaml.load_all(text, Loader=_Loader):
        _measure(document)
        yield document


def _measure(document: Any) -> None:
    """Refuse a document that is huge once its aliases are followed (or endless)."""
    waiting, seen = [document], 0
    while waiting:
        seen += 1
        if seen > MOST_NODES:
            raise InvalidInput(f"a document holds more than {MOST_NODES} values")
        item = waiting.pop()
        children: Iterable[Any] = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        waiting.extend(children)


def _is_ours(document: Any) -> bool:
    """Documents of other API groups may stand in the same files; they are somebody else's."""
    if not isinstance(document, dict):
        return True
    api = document.get("apiVersion")
    return not isinstance(api, str) or api.startswith(f"{GROUP}/") or api == GROUP


def _full_name(document: Any) -> str:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return ""
    return f"{metadata.get('namespace') or 'default'}/{metadata['name']}"


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(error).splitlines()[0]


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, as an API server would, and merge keys, which can explode.

    Dates stay text, as they do on the way to an API server.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads it as a plain mapping.
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _value in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys are not supported", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
