"""Words for people out of names for machines: what a label is when nobody wrote one."""

from __future__ import annotations

import re

ACRONYMS = frozenset({"api", "id", "ip", "pdf", "rfc", "sku", "sms", "ui", "url", "uuid", "vat"})

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def humanize(name: str, *, reference: bool = False) -> str:
    """`first_name` → `First name`, `SalesOrder` → `Sales order`, `api_url` → `API URL`; '' stays ''.

    Of a `reference` a trailing `_id` goes: `customer_id` → `Customer`, for the column shows the thing that it points
    to. What is not ASCII was written for people already, and only gets its first letter raised.
    """
    if not name.isascii():
        spaced = name.replace("_", " ").strip()
        return spaced[:1].upper() + spaced[1:]
    words = [word.lower() for word in _WORD.findall(name)]
    if reference and len(words) > 1 and words[-1] == "id":
        words.pop()
    shown = [word.upper() if word in ACRONYMS else word for word in words]
    if not shown:
        return name
    return " ".join([shown[0][:1].upper() + shown[0][1:], *shown[1:]])
