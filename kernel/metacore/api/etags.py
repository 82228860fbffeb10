"""Entity tags: which version of something a client has, and whether that is still the one there (RFC 9110, 13)."""

from __future__ import annotations

ANY = "*"


def tags_of(header: str | None) -> frozenset[str]:
    """The tags of an If-Match or If-None-Match header, or `*`; none without one. What an empty one names, nothing has:
    a client that lost its tag is not one that does without.

    Weak ones count like strong ones: a proxy that compresses a reply weakens its tag, and the row is the same.
    """
    if header is None:
        return frozenset()
    return frozenset(part.strip().removeprefix("W/").strip('"') for part in header.split(","))


def matches(header: str | None, tag: str) -> bool:
    """Whether `header` names `tag`, or takes any."""
    tags = tags_of(header)
    return tag in tags or ANY in tags


def quoted(tag: str) -> str:
    return f'"{tag}"'
