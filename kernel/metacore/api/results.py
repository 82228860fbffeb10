"""What code of addons answered, as a reply (contract 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from metacore.addons.invocation import Result
from metacore.api import envelope
from metacore.api.errors import STATUS
from metacore.errors import PermissionDenied, Refused


def result_reply(result: Result, meta: Mapping[str, Any], *, forbidden: bool) -> Response:
    """`{success, data?, error?, meta}`: 200, 422 when the addon declined, 403 when it was not granted what it did."""
    body: dict[str, Any] = {"success": result.success}
    if result.data is not None or result.success:
        body["data"] = result.data
    if not result.success:
        # Beside the error of contract 7 stands what every failure has (contract 1).
        body |= {
            "message": result.message,
            "code": result.code,
            "error": {"code": result.code, "message": result.message},
        }
    body["meta"] = meta
    failed = STATUS[PermissionDenied] if forbidden else STATUS[Refused]
    return envelope.raw(envelope.dumps(body), status=200 if result.success else failed)
