"""A name server of the tests."""

from __future__ import annotations

from collections.abc import Sequence


class Names:
    """Each name has answers (lists of addresses), given one after another, the last one for good. `_` in a keyword
    stands for a dot. `asked` holds every question."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): [list(answer) for answer in given] for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        given = self.answers.get(host)
        if given is None:
            raise OSError("no such name")
        return given.pop(0) if len(given) > 1 else given[0]
