"""Settings: read from the environment, documented each, secrets hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from metacore.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def _names(field: str) -> set[str]:
    alias = Settings.model_fields[field].validation_alias
    names = [name for name in getattr(alias, "choices", []) if str(name).isupper()]
    return {str(name) for name in names} or {f"METACORE_{field.upper()}"}


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_name_and_meaning(field: str) -> None:
    page = DOCS.read_text("utf-8")
    for name in _names(field):
        assert f"`{name}`" in page
    description = Settings.model_fields[field].description
    assert description
    assert description in page


def test_lists_come_from_commas_and_the_ecosystem_names_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METACORE_JWT_SECRETS", "first, second")
    monkeypatch.setenv("MARKETPLACE_PUBKEYS", "AA,bb")
    monkeypatch.setenv("MARKETPLACE_PUBKEY", "cc")
    monkeypatch.setenv("ALLOW_UNSIGNED_BUNDLES", "true")
    settings = Settings()
    assert [secret.get_secret_value() for secret in settings.jwt_secrets] == ["first", "second"]
    assert settings.all_trusted_keys == ("aa", "bb", "cc")
    assert settings.allow_unsigned_bundles


@pytest.mark.parametrize(
    ("word", "enforcing"),
    [("1", True), ("TRUE", True), ("Yes", True), ("enforce", True), ("shadow", False), ("0", False), ("", False)],
)
def test_enforce_takes_the_words_of_the_contract(monkeypatch: pytest.MonkeyPatch, word: str, enforcing: bool) -> None:
    monkeypatch.setenv("METACORE_ENFORCE", word)
    assert Settings().enforcing is enforcing


def test_no_secret_shows_in_a_printed_settings_object(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRETS", "MASTER_KEY", "DATABASE_URL", "OWNER_DATABASE_URL", "DIRECT_DATABASE_URL"):
        monkeypatch.setenv(f"METACORE_{name}", "hunter2hunter2")
    assert "hunter2" not in repr(Settings())
