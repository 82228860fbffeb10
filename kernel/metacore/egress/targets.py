"""Reading a URL once, strictly: what is judged here is what is connected to, and nobody parses the text again."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin

import idna

from metacore.errors import InvalidInput

MAX_URL_LENGTH: Final = 8_192
"""Characters of a URL: what common servers take for a request line."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{0,5}))?")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNESCAPED: Final = "".join(chr(code) for code in range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class Target:
    """`host` is lower case ASCII without brackets and without a dot at its end; `path` holds the query, too."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """What logs and messages call it: paths and queries may be secret."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return self.origin + self.path

    def joined(self, location: str) -> Target:
        """Where a redirect leads.

        Raises:
            InvalidInput: nowhere that a request could go to.
        """
        try:
            return parse_target(urljoin(self.url, location))
        except ValueError:  # urljoin, on brackets that do not match.
            raise InvalidInput(f"{self.origin} redirects to what is no URL", code="invalid_url") from None


def parse_target(url: str) -> Target:
    """The parts of an http or https URL. Non-ASCII characters of the path are percent-encoded; a fragment is dropped.

    Numbers that C libraries take for IPv4 addresses (`127.1`, `0x7f000001`, `017700000001`) become the address they
    mean, as in the URL standard, so that gate and judge see it.

    Raises:
        InvalidInput: no such URL; the message never holds its path, query or credentials.
    """
    if len(url) > MAX_URL_LENGTH:
        raise _invalid(f"the URL is longer than {MAX_URL_LENGTH} characters")
    if _UNPRINTABLE.search(url):
        raise _invalid("the URL holds a blank, a control character or a backslash")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _invalid("only http:// and https:// URLs can be requested")
    scheme, authority = parts["scheme"].lower(), parts["authority"]
    if "@" in authority:
        raise _invalid("the URL holds credentials before its host; send them in a header")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise _invalid("the URL has no valid host and port")
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise _invalid(f"{port} is no port")
    host = _literal(found["host"][1:-1]) if found["host"].startswith("[") else _host(found["host"])
    try:
        path = quote(parts["rest"], safe=_UNESCAPED)
    except UnicodeEncodeError:
        raise _invalid("the URL holds a lone surrogate") from None
    return Target(scheme, host, port, path if path.startswith("/") else f"/{path}")


def _literal(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise _invalid("the URL's host is no IPv6 address") from None


def _host(text: str) -> str:
    host = text.lower()
    if not host.isascii():
        try:
            host = idna.encode(text, uts46=True, std3_rules=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise _invalid("the URL's host is no valid international domain name") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(labels)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid("the URL's host is no valid domain name")
    return host


def _ipv4(labels: list[str]) -> str:
    """The IPv4 parser of the URL standard (WHATWG), which is what inet_aton accepts."""
    numbers = [_number(label) for label in labels]
    *bytes_, last = numbers
    if len(numbers) > 4 or any(byte > 255 for byte in bytes_) or last >= 256 ** (5 - len(numbers)):
        raise _invalid("the URL's host is no IPv4 address")
    value = last + sum(byte * 256 ** (3 - place) for place, byte in enumerate(bytes_))
    return str(ipaddress.IPv4Address(value))


def _number(label: str) -> int:
    if _NUMBER.fullmatch(label) and len(label) <= 16:
        try:
            if label.startswith("0x"):
                return int(label[2:] or "0", 16)
            return int(label, 8) if label.startswith("0") else int(label)
        except ValueError:  # 8 and 9 in an octal number.
            pass
    raise _invalid("the URL's host is no IPv4 address")


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_url")
