"""`metacore operator`: the reconcile over the Addons of a cluster."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec

from metacore.cli.environment import read_settings
from metacore.errors import MetacoreError, Misconfigured


def operator() -> None:
    """Reconcile the Addons of a cluster until SIGTERM; settings come from the environment (docs/operator.md)."""
    if find_spec("kopf") is None or find_spec("kubernetes") is None:
        raise Misconfigured("the operator needs its extra: pip install 'metacore[operator]'")
    from metacore_operator.__main__ import read_operator_settings, run

    try:
        asyncio.run(run(read_settings(), read_operator_settings()))
    except ExceptionGroup as failed:
        known = failed.subgroup(MetacoreError)
        if known is None:
            raise
        first: BaseException = known
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
