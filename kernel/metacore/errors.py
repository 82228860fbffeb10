"""The error tree. HTTP statuses are given in `metacore.api.errors`, exit codes in `metacore.cli`, nowhere else.

MetacoreError
├── InvalidInput            a malformed id, body or value                       (400)
│   └── ManifestInvalid     a manifest that breaks the contract; every problem
├── Unauthenticated         no token, or one that does not hold                 (401)
├── PermissionDenied        the caller lacks a capability                       (403)
│   └── Fenced              the addon's signature is no longer trusted
├── NotFound                unknown model, row, action or field                 (404)
├── TooSlow                 a body that does not come in reasonable time        (408)
├── Conflict                the state of the thing forbids it                   (409)
│   ├── KeyOwned            another Addon claimed this key first
│   └── ModelConflict       another addon or the host serves this model or table
├── StaleVersion            the row changed since the caller read it            (412)
├── PayloadTooLarge                                                             (413)
├── Refused                 a rule said no: validation, transition, plan        (422)
│   ├── BundleRefused       an archive that cannot be read safely
│   ├── SignatureRefused    a signature that does not verify; `code` says why
│   ├── MigrationRefused    SQL that an addon may not run
│   └── InstallFailed       a step of an installation failed; names the step
├── TooManyRequests                                                             (429)
├── NotWired                the host did not configure what the route needs     (501)
├── Unavailable             a part that is needed is not there right now        (503)
└── Misconfigured           settings that cannot work; names the setting
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input. `field` is a column, a JSON path or a file path; `code` a stable word."""

    field: str
    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        return {"field": self.field, "code": self.code, "message": self.message}


class MetacoreError(Exception):
    """Root of everything this project raises on purpose. `message` may be shown to the caller."""

    code: str = "error"

    def __init__(self, message: str, *, code: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.problems = tuple(problems)


class InvalidInput(MetacoreError):
    code = "invalid_input"


class ManifestInvalid(InvalidInput):
    """`problems` holds every breach, each with a JSON path such as `manifest.models[0].columns[2].default`."""

    code = "manifest_invalid"


class Unauthenticated(MetacoreError):
    code = "unauthenticated"


class PermissionDenied(MetacoreError):
    code = "permission_denied"


class Fenced(PermissionDenied):
    code = "fenced"


class NotFound(MetacoreError):
    code = "not_found"


class TooSlow(MetacoreError):
    code = "too_slow"


class Conflict(MetacoreError):
    code = "conflict"


class KeyOwned(Conflict):
    code = "key_owned"


class ModelConflict(Conflict):
    code = "model_conflict"


class StaleVersion(MetacoreError):
    code = "stale_version"


class PayloadTooLarge(MetacoreError):
    code = "payload_too_large"


class Refused(MetacoreError):
    code = "refused"


class BundleRefused(Refused):
    code = "bundle_refused"


class SignatureRefused(Refused):
    """`code` is one of unsigned, algorithm, digest_mismatch, untrusted, checksum_mismatch, checksum_missing,
    checksum_undeclared, no_trusted_keys, malformed."""

    code = "signature_refused"


class MigrationRefused(Refused):
    code = "migration_refused"


class InstallFailed(Refused):
    """`step` names the journal step that failed; earlier steps stand, this one left nothing behind."""

    code = "install_failed"

    def __init__(self, message: str, *, step: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.step = step


class TooManyRequests(MetacoreError):
    """`retry_after` is the number of seconds after which trying again makes sense; None when nobody knows."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after: float | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class NotWired(MetacoreError):
    code = "not_wired"


class Unavailable(MetacoreError):
    code = "unavailable"


class Misconfigured(MetacoreError):
    code = "misconfigured"
