"""Which locale a caller gets, where a text comes from, and what stands in for a missing one."""

from __future__ import annotations

import pytest

from metacore.metadata.labels import humanize
from metacore.translator import CatalogTranslator


@pytest.fixture
def translator() -> CatalogTranslator:
    made = CatalogTranslator(
        {"en": {"models.a.title": "Host A"}, "es-MX": {"models.a.title": "A de México"}}, default_locale="en"
    )
    made.replace_addons(
        {
            "zebra": {"en": {"models.b.title": "Zebra's B"}, "pt_BR": {"models.b.title": "B"}},
            "ant": {"en": {"models.a.title": "Ant's A", "models.b.title": "Ant's B"}, "es": {"models.b.title": "La B"}},
        }
    )
    return made


@pytest.mark.parametrize(
    ("header", "locale"),
    [
        ("", "en"),
        ("es", "es"),
        ("es-MX", "es-mx"),
        ("es_MX", "es-mx"),
        ("es-AR", "es"),
        ("fr, es;q=0.5", "es"),
        ("es;q=0.2, pt-BR;q=0.9", "pt-br"),
        ("es;q=0, en", "en"),
        ("fr", "en"),
        ("*", "en"),
        ("fr, *;q=0.1", "en"),
        (";;;, q=, \x00", "en"),
        ("es;q=nonsense", "en"),
        ("x" * 10_000, "en"),
    ],
)
def test_a_locale_is_negotiated_from_what_is_known(translator: CatalogTranslator, header: str, locale: str) -> None:
    assert translator.negotiate(header) == locale


def test_the_host_wins_over_addons(translator: CatalogTranslator) -> None:
    assert translator.translate("models.a.title", "en", addon_key="ant") == "Host A"


def test_an_addon_wins_over_other_addons_for_its_own_models(translator: CatalogTranslator) -> None:
    assert translator.translate("models.b.title", "en", addon_key="zebra") == "Zebra's B"
    assert translator.translate("models.b.title", "en") == "Ant's B"


def test_a_locale_widens_to_its_language_then_to_the_default(translator: CatalogTranslator) -> None:
    assert translator.translate("models.b.title", "es-MX") == "La B"
    assert translator.translate("models.a.title", "es-AR") == "Host A"
    assert translator.translate("models.a.title", "") == "Host A"


def test_a_text_that_nobody_has_is_made_from_the_last_segment(translator: CatalogTranslator) -> None:
    assert translator.translate("models.tickets.columns.due_at", "es") == "Due at"


def test_addons_that_are_gone_translate_no_more(translator: CatalogTranslator) -> None:
    translator.replace_addons({})
    assert translator.translate("models.b.title", "es") == "Title"
    assert translator.locales == {"en", "es-mx"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("first_name", "First name"),
        ("tax_id", "Tax ID"),
        ("id", "ID"),
        ("SalesOrder", "Sales order"),
        ("api_url", "API URL"),
        ("APIKey", "API key"),
        ("line2", "Line 2"),
        ("año_fiscal", "Año fiscal"),
        ("", ""),
        ("_", "_"),
    ],
)
def test_names_become_words(name: str, words: str) -> None:
    assert humanize(name) == words


def test_a_reference_is_called_by_what_it_points_to() -> None:
    assert humanize("customer_id", reference=True) == "Customer"
    assert humanize("id", reference=True) == "ID"
