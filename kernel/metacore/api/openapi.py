"""The API described: the kernel's routes for anybody, the live models of the caller's organization after login."""

import asyncio
import html
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from metacore.addons.action_lookup import actions_of
from metacore.api import envelope
from metacore.api.action_schemas import action_paths
from metacore.api.deps import OptionalPrincipalDependency
from metacore.api.model_schemas import FAILED, FAILURE, FAILURE_NAME, Words, model_paths, model_schemas, model_tag
from metacore.api.route import KernelRoute
from metacore.errors import NotFound
from metacore.identity import Principal
from metacore.metadata.derive import derive_action
from metacore.metadata.model import ActionDef
from metacore.metadata.translation import Translator, translated
from metacore.permissions.service import PermissionService
from metacore.registry import LiveModel, Registry

ASSETS: Final[Mapping[str, tuple[str, str, str]]] = {
    "swagger-ui-bundle.js": ("fastapi_swagger.resources", "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": ("fastapi_swagger.resources", "swagger-ui.css", "text/css"),
    "login.js": ("metacore.api", "docs_page/login.js", "text/javascript"),
    "login.css": ("metacore.api", "docs_page/login.css", "text/css"),
    "icon.svg": ("metacore.api", "docs_page/icon.svg", "image/svg+xml"),
}

CONTENT_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
DESCRIPTION = "Log in above to see the models of your organization, and to try requests with your token."
FASTAPI_TITLE = "FastAPI"
"""What FastAPI calls an application that nobody gave a title."""
TAGS: Final[Mapping[str, str]] = {
    "records": "Rows of every model; each model of your organization is described above once you are logged in",
    "actions": "What addons do with rows and tables beyond that",
    "options": "Values to choose from, rows to find, values to count",
    "transfer": "Rows as files, out and in",
    "metadata": "How to draw lists and forms",
    "navigation": "The menu",
    "addons": "What is installed, and installing more",
    "auth": "Sessions",
    "users": "People of your organization",
    "permissions": "What roles and users may do",
    "health": "For machines that look after this one",
}
"""Sections of the page below those of the models, in their order."""
UNUSED = ("HTTPValidationError", "ValidationError")
"""FastAPI's own shape of a refused body; the kernel refuses in the envelope."""


def build_docs_router(
    described: FastAPI | APIRouter,
    registry: Registry,
    permissions: PermissionService | None,
    optional_principal: OptionalPrincipalDependency,
    translator: Translator,
    *,
    prefix: str,
    version: str,
) -> APIRouter:
    """`/docs`, `/docs/assets/*` and `/openapi.json`; nothing is loaded from other hosts. Labels of models come in the
    reader's language."""
    router = APIRouter(route_class=KernelRoute, include_in_schema=False)
    Caller = Annotated[Principal | None, Depends(optional_principal)]  # noqa: N806 - a type.
    Language = Annotated[str, Header(alias="Accept-Language")]  # noqa: N806 - a type.
    base: dict[str, Any] = {}

    @router.get("/openapi.json")
    async def openapi(request: Request, principal: Caller, accept_language: Language = "") -> Response:
        if not base:
            base.update(await asyncio.to_thread(describe, described, version))
        locale = translator.negotiate(accept_language)

        def words_of(model: LiveModel) -> Words:
            return lambda text: str(translated(text, translator, locale, model.addon_key))

        models = await readable(registry, permissions, principal)
        actions = await runnable(registry, permissions, principal, models)
        document = with_models(base, models, prefix, words_of, actions)
        # Where the application hangs under a path of its own, that path stands before every path of the document.
        outer = request.scope["path"].removesuffix("/openapi.json")
        if outer:
            document["servers"] = [{"url": outer}]
        return envelope.bare(document, headers={"Cache-Control": "private, no-cache", "Content-Language": locale})

    @router.get("/docs")
    async def docs() -> Response:
        page = (resources.files("metacore.api") / "docs_page" / "index.html").read_text("utf-8")
        return Response(
            page.replace("{{prefix}}", html.escape(prefix)),
            media_type="text/html",
            headers={
                "Cache-Control": "no-cache",
                "Content-Security-Policy": CONTENT_POLICY,
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
            },
        )

    @router.get("/docs/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(f"no asset {name[:64]!r}")
        package, path, media_type = ASSETS[name]
        content = await asyncio.to_thread(resources.files(package).joinpath(*path.split("/")).read_bytes)
        headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type=media_type, headers=headers)

    return router


async def readable(
    registry: Registry, permissions: PermissionService | None, principal: Principal | None
) -> list[LiveModel]:
    """The models that the caller may read; none without a caller."""
    if principal is None:
        return []
    models = registry.models_of(principal.organization_id)
    return [
        models[key]
        for key in sorted(models)
        if permissions is None or await permissions.check(principal, f"{key.lower()}.read")
    ]


async def runnable(
    registry: Registry,
    permissions: PermissionService | None,
    principal: Principal | None,
    models: Iterable[LiveModel],
) -> dict[str, dict[str, ActionDef]]:
    """The actions that the caller may run, by key of the model and of the action."""
    found: dict[str, dict[str, ActionDef]] = {}
    if principal is None:
        return found
    for model in models:
        own = found[model.key] = {}
        for action in actions_of(registry, model, principal.organization_id):
            key = action.definition.key
            allowed = permissions is None or await permissions.check(principal, f"{model.key.lower()}.{key}")
            if key not in own and allowed and action.runs:
                own[key] = derive_action(action.definition)
    return found


def describe(described: FastAPI | APIRouter, version: str) -> dict[str, Any]:
    """The document of every route of `described`, without models. Failures are described as they are sent."""
    titled = isinstance(described, FastAPI) and described.title not in ("", FASTAPI_TITLE)
    document = get_openapi(
        title=described.title if isinstance(described, FastAPI) and titled else "Metacore",
        version=described.version if isinstance(described, FastAPI) and titled else version,
        routes=described.routes,
        description=DESCRIPTION,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in UNUSED:
        schemas.pop(name, None)
    schemas[FAILURE_NAME] = FAILURE
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    for item in document["paths"].values():
        for operation in item.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
            responses.setdefault("4XX", FAILED)
    return document


def with_models(
    base: Mapping[str, Any],
    models: Iterable[LiveModel],
    prefix: str,
    words_of: Callable[[LiveModel], Words],
    actions: Mapping[str, Mapping[str, ActionDef]] = MappingProxyType({}),
) -> dict[str, Any]:
    """`base` with the sections, paths and schemas of `models` and their `actions` (by model key) in front; `base`
    itself stays as it is."""
    schemas = dict(base["components"]["schemas"])
    paths: dict[str, Any] = {}
    labels: dict[str, None] = {}
    for model in models:
        words = words_of(model)
        schemas.update(model_schemas(model, words))
        paths.update(model_paths(model, prefix, words))
        paths.update(action_paths(model, actions.get(model.key, {}), prefix, words))
        labels[model_tag(model, words)] = None
    tags = [{"name": label} for label in labels if label not in TAGS]
    return {
        **base,
        "tags": [*tags, *base["tags"]],
        "paths": {**paths, **base["paths"]},
        "components": {**base["components"], "schemas": schemas},
    }
