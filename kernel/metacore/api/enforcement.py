"""The mode, and what addons did without being granted it (contract 16)."""

import datetime
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from metacore.api import envelope
from metacore.api.addons import AddonRoute, AddonServices
from metacore.api.deps import PrincipalDependency
from metacore.capabilities.access import CapabilityKind, Mode
from metacore.capabilities.enforcement import Enforcement
from metacore.capabilities.violations import ViolationFilter, list_violations
from metacore.capabilities.window import parse_since
from metacore.errors import InvalidInput, PermissionDenied
from metacore.identity import Principal, administered_by
from metacore.manifest.names import ADDON_KEY

MODE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["mode"],
                    "additionalProperties": False,
                    "properties": {
                        "mode": {
                            "enum": ["shadow", "enforce", None],
                            "description": "null takes back what was asked for by API",
                        }
                    },
                }
            }
        },
    }
}
MAX_PAGE: Final = 100_000
KIND: Final = re.compile(r"[a-z]{1,15}:[a-z]{1,15}")
MODE: Final = re.compile("|".join(mode.value for mode in Mode))
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class EnforcementServices:
    """What the routes need. `organizations` are the ids of those whose people may change the mode of all; `*` is
    any."""

    enforcement: Enforcement
    addons: AddonServices
    organizations: frozenset[str]
    max_per_page: int


def build_enforcement_router(services: EnforcementServices, authenticated: PrincipalDependency) -> APIRouter:
    router = APIRouter(prefix="/metacore", route_class=AddonRoute, tags=["addons"])
    Caller = Annotated[Principal, Depends(authenticated)]  # noqa: N806 - a type.

    @router.get("/mode", summary="Whether violations are recorded or refused, here and per addon")
    async def mode(principal: Caller) -> Response:
        return envelope.ok(_described(services, principal))

    @router.put("/mode", summary="Ask for another mode of the whole installation", openapi_extra=MODE_BODY)
    async def ask_for_mode(request: Request, principal: Caller) -> Response:
        """Needs `addons.enforce`, and an organization that administers this installation: the mode holds for all."""
        await services.addons.require(principal, "addons.enforce")
        if not administered_by(services.organizations, principal.organization_id):
            raise PermissionDenied(
                "permission denied: the mode holds for every organization, and yours does not administer this"
                " installation; the setting mode_organizations names those that do",
                code="not_an_administrator",
            )
        wish = _read_mode(services.addons.records.parse_body(await request.body()))
        await services.enforcement.modes.ask(wish, principal.email)
        return envelope.ok(_described(services, principal))

    @router.get("/violations", summary="What addons did here without being granted it")
    async def violations(
        principal: Caller,
        since: Annotated[str, Query(description="A span such as 24h or 7d, or an instant in RFC 3339")] = "24h",
        addon: Annotated[str, Query(description="Key of an addon")] = "",
        kind: Annotated[str, Query(description="A kind of capability, such as db:read")] = "",
        mode: Annotated[str, Query(description="shadow: passed; enforce: refused")] = "",
        page: Annotated[str, Query(json_schema_extra={"type": "integer", "default": 1})] = "1",
        per_page: Annotated[str, Query(json_schema_extra={"type": "integer", "default": 20})] = "20",
    ) -> Response:
        await services.addons.require(principal, "addons.read")
        _check_filter("addon", addon, ADDON_KEY, "the key of an addon")
        _check_filter("kind", kind, KIND, f"one of {', '.join(CapabilityKind)}")
        _check_filter("mode", mode, MODE, f"one of {', '.join(Mode)}")
        wanted = ViolationFilter(
            since=parse_since(since, datetime.datetime.now(datetime.UTC)), addon_key=addon, kind=kind, mode=mode
        )
        number = min(max(_number(page, "page"), 1), MAX_PAGE)
        size = min(max(_number(per_page, "per_page"), 1), services.max_per_page)
        found, total = await list_violations(
            services.addons.database, principal.organization_id, wanted, page=number, per_page=size
        )
        meta = {"total": total, "page": number, "per_page": size, "last_page": max(1, -(-total // size))}
        return envelope.ok([violation.as_json() for violation in found], meta=meta)

    return router


def _described(services: EnforcementServices, principal: Principal) -> dict[str, Any]:
    """The mode with who decided it, and how each addon of the caller's organization is held."""
    modes, enforcer = services.enforcement.modes, services.enforcement.enforcer
    wishes = modes.wishes
    snapshot = services.addons.registry.snapshot
    installed = snapshot.installed.get(principal.organization_id, {})
    addons = [
        {"key": key, "mode": snapshot.addons[key].mode, "effective": enforcer.mode_of(key).value}
        for key in sorted(installed)
        if key in snapshot.addons
    ]
    return {
        "mode": enforcer.mode.value,
        "source": wishes.source.value,
        "configured": wishes.configured.value,
        "asked": wishes.asked.mode.value if wishes.asked is not None and not wishes.fixed else None,
        "asked_at": wishes.asked.at if wishes.asked is not None and not wishes.fixed else None,
        "fixed": modes.refusal,
        "addons": addons,
    }


def _read_mode(body: dict[str, Any]) -> Mode | None:
    if set(body) != {"mode"}:
        others = ", ".join(sorted(str(name)[:40] for name in set(body) - {"mode"})[:3])
        raise InvalidInput(
            f"{others}: only mode can be set; an addon's own mode is spec.mode of its Addon"
            if others
            else "mode is required: shadow, enforce, or null to take back what was asked for",
            code="invalid_mode",
        )
    wish = body["mode"]
    if wish is None:
        return None
    try:
        return Mode(wish)
    except ValueError:
        raise InvalidInput(
            f"mode {str(wish)[:40]!r} is neither shadow, enforce nor null", code="invalid_mode"
        ) from None


def _number(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"{name}: {text[:20]!r} is not a number", code="invalid_page")
    return int(text)


def _check_filter(name: str, value: str, form: re.Pattern[str], expected: str) -> None:
    if value and not form.fullmatch(value):
        raise InvalidInput(f"{name}: {value[:40]!r} is not {expected}", code="invalid_filter")
