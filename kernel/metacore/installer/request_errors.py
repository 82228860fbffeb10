"""An error that a worker met, kept in a row and made again where somebody asks for the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metacore import errors
from metacore.errors import InstallFailed, MetacoreError, Problem


def stored_failure(error: MetacoreError) -> tuple[dict[str, Any], str, str]:
    """What of an error is stored, so that `raised_error` can make it on the other side."""
    kept: dict[str, Any] = {
        "kind": type(error).__name__,
        "problems": [problem.as_json() for problem in error.problems],
    }
    if isinstance(error, InstallFailed):
        kept["step"] = error.step
    return kept, error.code, error.message


def raised_error(code: str, message: str, kept: Mapping[str, Any]) -> MetacoreError:
    """The error of a row: its class by name, as far as the error tree still has it."""
    kind = getattr(errors, str(kept.get("kind", "")), MetacoreError)
    if kind is InstallFailed:
        return InstallFailed(message, step=str(kept.get("step", "")), code=code)
    if not (isinstance(kind, type) and issubclass(kind, MetacoreError)):
        kind = MetacoreError
    problems = [Problem(**problem) for problem in kept.get("problems", ())]
    if kind is errors.TooManyRequests:
        return MetacoreError(message, code=code)
    return kind(message, code=code, problems=problems)
