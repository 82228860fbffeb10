"""URLs are read once and strictly: one meaning, or none."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.egress.headers import checked_headers, checked_method
from metacore.egress.targets import parse_target
from metacore.errors import InvalidInput

LOOPBACK = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "0x7F.0x0.0x0.0x1",
    "0177.0.0.01",
    "127.0.0x1",
    "①②⑦.⓪.⓪.①",
    "１２７．０．０．１",
    "127。0。0。1",
    "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
    "２１３０７０６４３３",
    "0Ｘ7f.1",
]
REFUSED = [
    "",
    "example.com",
    "//example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:70/",
    "javascript:alert(1)",
    "http:/example.com/",
    "http:example.com",
    "http:///example.com",
    "http://",
    "http://:80/",
    "http://.",
    "http://..",
    "http://a..b/",
    "http://example.com..",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://@example.com/",
    "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1\\@example.com/",
    "http://example.com\\.evil.test/",
    "http:\\\\example.com/",
    "http://exa mple.com/",
    "http://example.com/a b",
    " http://example.com/",
    "http://example.com/\r\nHost: evil",
    "http://example.com\r\n/",
    "http://example.com/\x00",
    "http://exam\tple.com/",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:99999999/",
    "http://example.com:-1/",
    "http://example.com:+80/",
    "http://example.com:８０/",
    "http://example.com:80:80/",
    "http://example.com:0x50/",
    "http://%31%32%37.0.0.1/",
    "http://example%2ecom/",
    "http://exam%00ple.com/",
    "http://[::1/",
    "http://::1/",
    "http://[127.0.0.1]/",
    "http://[::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[v1.fe80]/",
    "http://[::1]a/",
    "http://256.0.0.1/",
    "http://1.2.3.4.5/",
    "http://0x1ffffffff/",
    "http://08.1/",
    "http://1.2.3.example.1/",
    "http://-example.com/",
    "http://example-.com/",
    "http://*.example.com/",
    f"http://{'a' * 64}.com/",
    f"http://{'a.' * 127}com/",
    "http://xn--a.example\ud800/",
    "http://example.com/\ud800",
    "http://" + "a" * 9000 + ".com/",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_every_notation_of_an_address_becomes_that_address(host: str) -> None:
    assert parse_target(f"http://{host}:8080/x").host == "127.0.0.1"


@pytest.mark.parametrize("url", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_target(url)
    assert caught.value.code == "invalid_url"
    for secret in ("password", "passwd", "evil"):
        assert secret not in caught.value.message


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path", "authority"),
    [
        ("http://example.com", "http", "example.com", 80, "/", "example.com"),
        ("HTTPS://EXAMPLE.com./a?b#c", "https", "example.com", 443, "/a?b", "example.com"),
        ("https://example.com:8443?x=1", "https", "example.com", 8443, "/?x=1", "example.com:8443"),
        ("http://example.com:443/", "http", "example.com", 443, "/", "example.com:443"),
        ("http://example.com:/", "http", "example.com", 80, "/", "example.com"),
        ("http://[2001:DB8:0::1]:81/", "http", "2001:db8::1", 81, "/", "[2001:db8::1]:81"),
        ("http://[::ffff:127.0.0.1]/", "http", "::ffff:7f00:1", 80, "/", "[::ffff:7f00:1]"),
        ("http://Bücher.example/ü?ß=%41", "http", "xn--bcher-kva.example", 80, "/%C3%BC?%C3%9F=%41", None),
        ("http://minio_1.storage:9000/@:x", "http", "minio_1.storage", 9000, "/@:x", "minio_1.storage:9000"),
        ("http://example.com/@evil.test:80/", "http", "example.com", 80, "/@evil.test:80/", "example.com"),
        ("http://example.com#@127.0.0.1/", "http", "example.com", 80, "/", "example.com"),
        ("http://example.com?@127.0.0.1/", "http", "example.com", 80, "/?@127.0.0.1/", "example.com"),
    ],
)
def test_a_url_has_one_meaning(url: str, scheme: str, host: str, port: int, path: str, authority: str | None) -> None:
    target = parse_target(url)
    assert (target.scheme, target.host, target.port, target.path) == (scheme, host, port, path)
    assert target.authority == (authority or target.authority)
    assert parse_target(target.url) == target


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "HTTP://a.b@", "http://[", "http://127.0.0.1"]))
def test_any_text_is_refused_or_means_the_same_when_read_again(text: str, start: str) -> None:
    try:
        target = parse_target(start + text)
    except InvalidInput:
        return
    assert parse_target(target.url) == target
    assert target.host.isascii()
    assert target.path.isascii()
    assert not set(target.host) & set("/?#@\\% \r\n")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{:d}", "0x{:x}", "0{:o}"]), st.integers(1, 4))
def test_numbers_are_read_as_the_c_library_reads_them(number: int, form: str, parts: int) -> None:
    pieces = [number >> 24 & 255, number >> 16 & 255, number >> 8 & 255][: parts - 1]
    last = number & (2 ** (8 * (5 - parts)) - 1)
    text = ".".join(form.format(piece) for piece in [*pieces, last])
    assert parse_target(f"http://{text}/").host == str(ipaddress.IPv4Address(number))


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/there", "https://example.com:8443/there"),
        ("there?x#y", "https://example.com:8443/a/there?x"),
        ("//other.test/x", "https://other.test/x"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("?q", "https://example.com:8443/a/b?q"),
    ],
)
def test_a_redirect_is_read_like_any_url(location: str, url: str) -> None:
    assert parse_target("https://example.com:8443/a/b").joined(location).url == url


@pytest.mark.parametrize("location", ["ftp://example.com/", "http://u:p@example.com/", "http://[::1/", "\\\\evil"])
def test_a_redirect_to_nowhere_is_refused(location: str) -> None:
    with pytest.raises(InvalidInput):
        parse_target("https://example.com/").joined(location)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "1\r\nX-B: 2"},
        {"X-A": "1\nX-B: 2"},
        {"X-A": "\x00"},
        {"X-A": "\u20ac"},
        {"X A": "1"},
        {"": "1"},
        {"X:": "1"},
        {"X\r\nY": "1"},
        {"Ü": "1"},
        {"Host": "127.0.0.1"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Upgrade": "h2c"},
        {"Proxy-Authorization": "Basic eA=="},
        {"X-A": "1", "x-a": "2"},
        {"X-A": "a" * 40_000},
        {f"X-{number}": "" for number in range(101)},
    ],
)
def test_a_header_that_could_break_or_steer_the_message_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_headers(headers)
    assert caught.value.code == "invalid_header"


def test_other_headers_go_as_they_are() -> None:
    assert checked_headers({"X-Api-Key": " k\u00e9y ", "Accept": "a\tb"}) == {"x-api-key": "k\u00e9y", "accept": "a\tb"}


@pytest.mark.parametrize("method", ["CONNECT", "trace", "GET /", "GET\r\n", "G\u00cbT", "A" * 21])
def test_some_methods_are_refused(method: str) -> None:
    with pytest.raises(InvalidInput):
        checked_method(method)


def test_no_method_is_get() -> None:
    assert [checked_method(method) for method in ("", "post", "PROPFIND")] == ["GET", "POST", "PROPFIND"]
