"""What the metadata service answers: translation, versions, caching, rules of organizations."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from metacore.errors import NotFound
from metacore.manifest.model import Column, ColumnType, ColumnValidation, ModelDefinition
from metacore.metadata.derive import derive_modal, derive_table
from metacore.metadata.model import ModalMetadata, TableMetadata
from metacore.metadata.service import MetadataService, ServedModel
from metacore.translator import CatalogTranslator

ACME = uuid.uuid4()
GLOBEX = uuid.uuid4()


@dataclass(frozen=True)
class Served:
    key: str
    addon_key: str
    table: TableMetadata
    modal: ModalMetadata


class Live:
    """A source whose models are set by the test; everybody has those of ''."""

    def __init__(self) -> None:
        self.models: dict[str, Served] = {}

    def serve(self, definition: ModelDefinition) -> None:
        self.models[definition.key] = Served(definition.key, "desk", derive_table(definition), derive_modal(definition))

    def model_for(self, name: str, organization_id: uuid.UUID) -> ServedModel:
        if name not in self.models:
            raise NotFound(f"unknown model {name!r}")
        return self.models[name]

    def models_of(self, organization_id: uuid.UUID) -> Mapping[str, ServedModel]:
        return self.models


class Rules:
    """Validators per organization, counting how often they are asked for."""

    def __init__(self, rules: Mapping[uuid.UUID, Mapping[str, Any]]) -> None:
        self.rules = rules
        self.asked = 0

    async def __call__(self, organization_id: uuid.UUID) -> Mapping[str, Any]:
        self.asked += 1
        return self.rules.get(organization_id, {})


def tickets(label: str = "models.tickets.title", custom: str = "") -> ModelDefinition:
    return ModelDefinition(
        key="tickets",
        table="tickets",
        label=label,
        columns=(
            Column(
                name="tax_id",
                type=ColumnType.STRING,
                label="models.tickets.columns.tax_id",
                validation=ColumnValidation(max=20, custom=custom),
            ),
        ),
    )


@pytest.fixture
def live() -> Live:
    source = Live()
    source.serve(tickets())
    return source


@pytest.fixture
def translator() -> CatalogTranslator:
    made = CatalogTranslator({"es": {"models.tickets.title": "Incidencias"}})
    made.replace_addons({"desk": {"en": {"models.tickets.title": "Tickets"}}})
    return made


async def version(service: MetadataService, organization: uuid.UUID = ACME, locale: str = "en") -> str:
    return (await service.all(organization, locale))[0]


async def test_keys_are_translated_by_locale_and_identities_are_left_alone(
    live: Live, translator: CatalogTranslator
) -> None:
    service = MetadataService(live, translator)
    english = await service.both(ACME, "tickets", "en")
    assert english["table"]["title"] == "Tickets"
    assert (await service.table(ACME, "tickets", "es"))["title"] == "Incidencias"
    assert english["table"]["columns"][0]["label"] == "Tax ID"
    assert english["table"]["columns"][0]["key"] == "tax_id"
    assert english["modal"]["fields"][0]["label"] == "Tax ID"


async def test_an_option_value_that_looks_like_a_key_stays_a_value(translator: CatalogTranslator) -> None:
    live = Live()
    live.serve(
        ModelDefinition(
            key="tickets",
            table="tickets",
            table_metadata={
                "columns": [{"key": "kind", "options": [{"value": "models.x", "label": "models.tickets.title"}]}]
            },
        )
    )
    shown = await MetadataService(live, translator).table(ACME, "tickets", "en")
    assert shown["columns"][0]["options"] == [{"value": "models.x", "label": "Tickets"}]


async def test_an_unknown_model_is_not_found(live: Live, translator: CatalogTranslator) -> None:
    with pytest.raises(NotFound):
        await MetadataService(live, translator).table(ACME, "nothing", "en")


async def test_all_holds_every_model_and_its_version(live: Live, translator: CatalogTranslator) -> None:
    live.serve(ModelDefinition(key="people", table="people", label="People"))
    tag, shapes = await MetadataService(live, translator).all(ACME, "en")
    assert shapes["version"] == tag
    assert list(shapes["tables"]) == list(shapes["modals"]) == ["people", "tickets"]


async def test_all_leaves_out_what_the_caller_may_not_read_and_the_version_tells(
    live: Live, translator: CatalogTranslator
) -> None:
    live.serve(ModelDefinition(key="people", table="people", label="People"))
    service = MetadataService(live, translator)

    async def only_people(model: ServedModel) -> bool:
        return model.key == "people"

    tag, shapes = await service.all(ACME, "en", readable=only_people)
    assert list(shapes["tables"]) == ["people"]
    assert tag != await version(service)


async def test_the_version_is_stable_until_something_changes(live: Live, translator: CatalogTranslator) -> None:
    service = MetadataService(live, translator)
    first = await version(service)
    assert await version(service) == first
    service.invalidate()
    second = await version(service)
    assert second != first
    service.invalidate()
    assert await version(service) not in (first, second)


async def test_the_version_differs_by_organization_and_locale(live: Live, translator: CatalogTranslator) -> None:
    service = MetadataService(live, translator)
    versions = {
        await version(service, organization, locale) for organization in (ACME, GLOBEX) for locale in ("en", "es")
    }
    assert len(versions) == 4


async def test_processes_that_serve_the_same_revision_agree_on_the_version(
    live: Live, translator: CatalogTranslator
) -> None:
    early, late = MetadataService(live, translator), MetadataService(live, translator)
    for revision in (5, 6, 7):
        early.invalidate(revision)
    late.invalidate(7)
    assert await version(early) == await version(late)
    late.invalidate(8)
    assert await version(early) != await version(late)


async def test_a_model_that_changed_is_shown_anew_without_being_told(live: Live, translator: CatalogTranslator) -> None:
    service = MetadataService(live, translator)
    before = await version(service)
    live.serve(tickets(label="Cases"))
    assert (await service.table(ACME, "tickets", "en"))["title"] == "Cases"
    assert await version(service) != before


async def test_a_rendering_is_kept_until_its_time_is_over(live: Live, translator: CatalogTranslator) -> None:
    kept, forgetful = MetadataService(live, translator, ttl=3600), MetadataService(live, translator, ttl=0)
    for service in (kept, forgetful):
        await service.table(ACME, "tickets", "en")
    translator.replace_addons({"desk": {"en": {"models.tickets.title": "Cases"}}})
    assert (await kept.table(ACME, "tickets", "en"))["title"] == "Tickets"
    assert (await forgetful.table(ACME, "tickets", "en"))["title"] == "Cases"
    kept.invalidate()
    assert (await kept.table(ACME, "tickets", "en"))["title"] == "Cases"


async def test_an_organization_rule_replaces_the_validator_that_names_it(translator: CatalogTranslator) -> None:
    live = Live()
    live.serve(tickets(custom="$org.tax"))
    rules = Rules({ACME: {"tax": {"regex": "^A", "max": 9, "message": "no"}}, GLOBEX: {"tax": "mx.rfc"}})
    service = MetadataService(live, translator, validators=rules)

    async def rule(organization: uuid.UUID) -> dict[str, Any]:
        shape = await service.both(organization, "tickets", "en")
        in_table = shape["table"]["columns"][0]["validation"]
        assert shape["modal"]["fields"][0]["validation"] == in_table
        return dict(in_table)

    assert await rule(ACME) == {"regex": "^A", "max": 9}
    assert await rule(GLOBEX) == {"max": 20, "custom": "mx.rfc"}
    assert await rule(uuid.uuid4()) == {"max": 20}
    assert rules.asked == 3
    await rule(ACME)
    assert rules.asked == 3


async def test_an_organization_is_asked_for_rules_only_when_a_model_names_one(
    live: Live, translator: CatalogTranslator
) -> None:
    rules = Rules({})
    await MetadataService(live, translator, validators=rules).all(ACME, "en")
    assert rules.asked == 0


async def test_many_models_are_rendered_in_order(translator: CatalogTranslator) -> None:
    live = Live()
    for number in range(9):
        live.serve(ModelDefinition(key=f"m{number}", table=f"m{number}", label=f"Model {number}"))
    service = MetadataService(live, translator)
    _, shapes = await service.all(ACME, "en")
    assert [shape["title"] for shape in shapes["tables"].values()] == [f"Model {number}" for number in range(9)]
