"""What the metadata routes answer: tables and forms of live models, translated, cached, with a version."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from metacore.metadata.model import ModalMetadata, TableMetadata
from metacore.metadata.translation import Translator, translated
from metacore.metadata.validators import ValidatorSource, names_organization_rule, with_organization_rules

MAX_CACHED = 4096
"""Renderings kept at once (model and locale, and organization where it has rules of its own)."""

RENDERED_ON_LOOP = 2
"""More models than this are rendered in a thread: one takes about half a millisecond."""


class ServedModel(Protocol):
    """The part of a live model that is shown."""

    @property
    def key(self) -> str: ...
    @property
    def addon_key(self) -> str: ...
    @property
    def table(self) -> TableMetadata: ...
    @property
    def modal(self) -> ModalMetadata: ...


class ModelSource(Protocol):
    """Who knows what is live; `metacore.registry.Registry` does."""

    def model_for(self, name: str, organization_id: uuid.UUID) -> ServedModel:
        """The model called `name`. Raises NotFound or Fenced."""

    def models_of(self, organization_id: uuid.UUID) -> Mapping[str, ServedModel]:
        """Every model of the organization, by key."""


Readable = Callable[[ServedModel], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One model as JSON values in one locale. `digest` covers both shapes."""

    model: ServedModel
    table: dict[str, Any]
    modal: dict[str, Any]
    digest: bytes
    organization_rules: bool
    expires_at: float


CacheKey = tuple[str, str, uuid.UUID | None]


class MetadataService:
    """Tables and forms by organization and locale, kept for `ttl` seconds or until the model changes."""

    def __init__(
        self,
        source: ModelSource,
        translator: Translator,
        *,
        ttl: float = 300,
        validators: ValidatorSource | None = None,
    ) -> None:
        self._source = source
        self._translator = translator
        self._ttl = ttl
        self._validators = validators
        self._epoch = 0
        self._revision = 0
        self._generation = 0
        self._cached: OrderedDict[CacheKey, Rendered] = OrderedDict()

    def negotiate(self, accept_language: str) -> str:
        """The locale for an `Accept-Language` header."""
        return self._translator.negotiate(accept_language)

    def invalidate(self, revision: int | None = None) -> None:
        """Forget every rendering; every version changes.

        `revision` is the registry's, when that is what changed: processes that serve the same revision then agree on
        the version, so a client that is balanced between them keeps its copy.
        """
        if revision is None:
            self._epoch += 1
        else:
            self._revision = revision
        self._generation += 1
        self._cached.clear()

    def model(self, organization_id: uuid.UUID, name: str) -> ServedModel:
        """The model called `name` (key or table). Raises NotFound or Fenced."""
        return self._source.model_for(name, organization_id)

    async def table(self, organization_id: uuid.UUID, name: str, locale: str = "") -> dict[str, Any]:
        """The table object of contract 4. Raises NotFound or Fenced."""
        return (await self._one(organization_id, name, locale)).table

    async def modal(self, organization_id: uuid.UUID, name: str, locale: str = "") -> dict[str, Any]:
        """The modal object of contract 4. Raises NotFound or Fenced."""
        return (await self._one(organization_id, name, locale)).modal

    async def both(self, organization_id: uuid.UUID, name: str, locale: str = "") -> dict[str, Any]:
        """`{"table": …, "modal": …}`. Raises NotFound or Fenced."""
        rendered = await self._one(organization_id, name, locale)
        return {"table": rendered.table, "modal": rendered.modal}

    async def all(
        self, organization_id: uuid.UUID, locale: str = "", *, readable: Readable | None = None
    ) -> tuple[str, dict[str, Any]]:
        """`(version, {"version", "tables", "modals"})` of the models for which `readable` is true, by model key.

        The version is one of the content: it differs by organization, locale and what the caller may read, and it
        changes at each invalidation.
        """
        models = sorted(self._source.models_of(organization_id).values(), key=lambda model: model.key)
        if readable is not None:
            models = [model for model in models if await readable(model)]
        rendered = await self._render(organization_id, models, locale)
        digest = hashlib.sha256(f"{self._epoch}/{self._revision}/{organization_id}/{locale}".encode())
        for item in rendered:
            digest.update(item.digest)
        version = digest.hexdigest()[:32]
        tables = {item.model.key: item.table for item in rendered}
        modals = {item.model.key: item.modal for item in rendered}
        return version, {"version": version, "tables": tables, "modals": modals}

    async def _one(self, organization_id: uuid.UUID, name: str, locale: str) -> Rendered:
        model = self._source.model_for(name, organization_id)
        return (await self._render(organization_id, [model], locale))[0]

    async def _render(self, organization_id: uuid.UUID, models: Iterable[ServedModel], locale: str) -> list[Rendered]:
        wanted = list(models)
        generation = self._generation
        known = {model.key: self._known((model.key, locale, None), model) for model in wanted}
        shared = {key: rendered for key, rendered in known.items() if rendered is not None}
        for rendered in await self._make([model for model in wanted if model.key not in shared], locale):
            shared[rendered.model.key] = rendered
            self._keep((rendered.model.key, locale, None), rendered, generation)
        return [
            await self._for_organization(organization_id, shared[model.key], locale)
            if shared[model.key].organization_rules
            else shared[model.key]
            for model in wanted
        ]

    async def _make(self, models: list[ServedModel], locale: str) -> list[Rendered]:
        if len(models) <= RENDERED_ON_LOOP:
            return [self._rendering(model, locale) for model in models]
        return await asyncio.to_thread(lambda: [self._rendering(model, locale) for model in models])

    def _rendering(self, model: ServedModel, locale: str) -> Rendered:
        table = translated(model.table.as_json(), self._translator, locale, model.addon_key)
        modal = translated(model.modal.as_json(), self._translator, locale, model.addon_key)
        return self._rendered(model, table, modal, names_organization_rule([table, modal]))

    async def _for_organization(self, organization_id: uuid.UUID, shared: Rendered, locale: str) -> Rendered:
        key = (shared.model.key, locale, organization_id)
        known = self._known(key, shared.model)
        if known is not None:
            return known
        generation = self._generation
        rules = await self._validators(organization_id) if self._validators is not None else {}
        table = with_organization_rules(shared.table, rules)
        modal = with_organization_rules(shared.modal, rules)
        rendered = self._rendered(shared.model, table, modal, True)
        self._keep(key, rendered, generation)
        return rendered

    def _rendered(
        self, model: ServedModel, table: dict[str, Any], modal: dict[str, Any], organization_rules: bool
    ) -> Rendered:
        digest = hashlib.sha256(orjson.dumps([model.key, table, modal])).digest()
        return Rendered(model, table, modal, digest, organization_rules, time.monotonic() + self._ttl)

    def _known(self, key: CacheKey, model: ServedModel) -> Rendered | None:
        """The kept rendering, unless it is old or another version of the model is served now."""
        rendered = self._cached.get(key)
        if rendered is None or rendered.model is not model or rendered.expires_at <= time.monotonic():
            return None
        return rendered

    def _keep(self, key: CacheKey, rendered: Rendered, generation: int) -> None:
        if generation != self._generation:
            # Made from texts or rules that were invalidated meanwhile: good for this caller, not for the next.
            return
        self._cached[key] = rendered
        self._cached.move_to_end(key)
        while len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
