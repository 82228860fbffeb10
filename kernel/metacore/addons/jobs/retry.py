"""How long to wait before the next try."""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 2.0
LONGEST_SECONDS: Final = 300.0


def pause(attempts: int) -> float:
    """Seconds after `attempts` tries in a row that failed: doubling from two seconds to five minutes, each time
    between half of it and all of it, so that what failed together is not tried again together."""
    whole = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(max(attempts - 1, 0), 16))
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads tries, no secret.
