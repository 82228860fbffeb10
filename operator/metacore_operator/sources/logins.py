"""What a Secret of type kubernetes.io/dockerconfigjson says about one registry."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from metacore.errors import Refused

DOCKER_HUB = "registry-1.docker.io"
HUB_NAMES = frozenset({DOCKER_HUB, "docker.io", "index.docker.io"})


@dataclass(frozen=True, slots=True)
class Login:
    """`basic` is base64 of `user:password`, `identity_token` a refresh token of the registry's token service,
    `registry_token` a bearer token as it is. Empty what is not given."""

    basic: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


def login_of(entries: Mapping[str, bytes], registry: str, secret: str) -> Login:
    """The login for `registry`; an empty one when the Secret has none.

    Raises:
        Refused: the Secret is no such one.
    """
    try:
        auths = orjson.loads(entries[".dockerconfigjson"])["auths"]
        for name, entry in auths.items():
            if _host(name) == registry or (registry == DOCKER_HUB and _host(name) in HUB_NAMES):
                return _read(entry)
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"Secret {secret!r} is not of type kubernetes.io/dockerconfigjson", code="source_refused"
        ) from error
    return Login()


def _read(entry: Mapping[str, Any]) -> Login:
    identity, token = str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or "")
    if entry.get("auth"):
        basic = str(entry["auth"])
        base64.b64decode(basic, validate=True)
    elif identity or token:
        basic = ""
    else:
        basic = base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    return Login(basic, identity, token)


def _host(name: str) -> str:
    """A registry's host as people and tools write it: with a scheme, with /v1/ or /v2/, or neither."""
    return name.removeprefix("https://").removeprefix("http://").split("/", 1)[0]
