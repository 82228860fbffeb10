"""What is compared with what, and the goals of docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KERNEL: Final = "kernel"
ALONE: Final = "kernel, coalescing off"
TWO: Final = "2 workers"
TWO_ALONE: Final = "2 workers, coalescing off"
DRIVER: Final = "driver"
OPEN: Final = "driver, no isolation"
ORM: Final = "ORM + pydantic"
CORE: Final = "SQLAlchemy Core"
FIRST_PAGE: Final = "page one"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`work` done by `ours` and by `yardstick` with so many connections. `goal` is the least ratio, None where the
    page promises none."""

    group: str
    work: str
    connections: int
    ours: str
    yardstick: str
    goal: float | None = None


COMPARISONS: Final = (
    *(Comparison("list", "list 20", connections, KERNEL, DRIVER, 0.55) for connections in (1, 16, 64)),
    *(Comparison("list", "list 100", connections, KERNEL, DRIVER, 0.65) for connections in (1, 16, 64)),
    Comparison("list", "list 20, not counted", 16, KERNEL, DRIVER),
    *(Comparison("get", "get", connections, KERNEL, DRIVER) for connections in (1, 16, 64)),
    # The more rows there are, the more of a counted list is PostgreSQL's counting, the same for both.
    Comparison("orm", "list 20", 16, KERNEL, ORM),
    Comparison("orm", "list 20, not counted", 16, KERNEL, ORM, 5.0),
    Comparison("orm", "list 100", 16, KERNEL, ORM, 5.0),
    Comparison("core", "get", 16, KERNEL, CORE, 4.0),
    Comparison("keyset", "page at depth", 1, KERNEL, FIRST_PAGE, 0.9),
    Comparison("isolation", "get", 4, DRIVER, OPEN, 0.9),
    Comparison("isolation", "list 20", 4, DRIVER, OPEN, 0.75),
    Comparison("isolation", "create", 4, DRIVER, OPEN, 0.9),
    Comparison("lone", "list 20", 1, KERNEL, ALONE, 0.97),
    Comparison("lone", "get", 1, KERNEL, ALONE, 0.97),
    Comparison("lone", "create", 1, KERNEL, ALONE, 0.97),
    Comparison("coalescing", "get", 16, KERNEL, ALONE),
    Comparison("coalescing", "get", 64, KERNEL, ALONE),
    Comparison("coalescing", "get", 64, TWO, TWO_ALONE, 2.0),
    Comparison("coalescing", "the same list 20", 64, KERNEL, ALONE),
    *(Comparison("create", "create", connections, KERNEL, DRIVER) for connections in (1, 16, 64)),
    Comparison("coalescing", "create", 16, KERNEL, ALONE),
    Comparison("coalescing", "create", 64, KERNEL, ALONE),
    Comparison("coalescing", "create", 64, TWO, TWO_ALONE, 1.8),
    Comparison("core", "create", 16, KERNEL, CORE, 4.0),
    *(Comparison("update", "update", connections, KERNEL, DRIVER) for connections in (1, 16, 64)),
    Comparison("core", "update", 16, KERNEL, CORE, 4.0),
)

WRITES: Final = frozenset({"create", "update"})
NEEDS_MORE_ROUNDS: Final = frozenset({"lone", "isolation", "keyset"})
"""Their goals lie near 1, within the noise of a few rounds."""
MORE_ROUNDS: Final = 3

MEMORY: Final = "memory"
HUB: Final = "hub"
WASM: Final = "wasm"
MEMORY_GOAL: Final = 200.0
ADDONS_IN_MEMORY: Final = 10

GROUPS: Final = (*dict.fromkeys(comparison.group for comparison in COMPARISONS), MEMORY, HUB, WASM)
