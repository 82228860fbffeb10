"""The caller's language comes from Accept-Language."""

from __future__ import annotations

import uuid

import pytest
from tests.factories import principal

from metacore.api.deps import preferred_locale, with_locale


@pytest.mark.parametrize(
    ("header", "locale"),
    [
        ("", ""),
        ("de", "de"),
        ("de-DE,de;q=0.9,en;q=0.8", "de-DE"),
        ("en;q=0.5, fr;q=0.9, es;q=0.9", "fr"),
        ("*", ""),
        ("*, es;q=0.1", "es"),
        ("en;q=0, de;q=0.1", "de"),
        ("zh-Hant-TW", "zh-Hant-TW"),
        ("en;q=2, de;q=nan, fr;q=-1, it;q=x, pt;q=0.2", "pt"),
        ("../../etc/passwd, en", "en"),
        ("<script>, ünï, de", "de"),
        (",,;;,=", ""),
        ("x" * 10_000 + ",de", ""),
        ("de," + "en," * 10_000, "de"),
    ],
)
def test_the_best_liked_tag_wins(header: str, locale: str) -> None:
    assert preferred_locale(header) == locale


def test_a_caller_without_preference_stays_the_same_object() -> None:
    who = principal(uuid.uuid4())
    assert with_locale(who, "*") is who
    assert with_locale(who, "de").locale == "de"
