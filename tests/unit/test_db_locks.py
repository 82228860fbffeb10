"""Advisory lock keys: distinct, and bigints."""

from __future__ import annotations

from metacore.db import locks


def test_no_two_parts_share_a_lock_and_each_key_is_a_bigint() -> None:
    keys = [value for name, value in vars(locks).items() if name.isupper()]
    assert len(keys) >= 2
    assert len(set(keys)) == len(keys)
    assert all(0 < key < 2**63 for key in keys)
