"""The judge of addresses: what nobody's request may reach, in whatever notation."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.egress.addresses import METADATA, AddressRules, Opening, canonical, is_public

V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.one_of(
    st.integers(0, 2**128 - 1),
    # Where the special blocks are dense.
    st.integers(0, 2**64 - 1).map(lambda low: (0x2001 << 112) | low),
    st.integers(0, 2**112 - 1).map(lambda low: (0x2001 << 112) | low),
    st.integers(0, 2**112 - 1).map(lambda low: (0x2002 << 112) | low),
    st.integers(0, 2**48 - 1),
).map(ipaddress.IPv6Address)
SPECIAL = st.sampled_from(
    [
        *(f"{octet}.0.0.1" for octet in (0, 10, 127, 224, 239, 240, 255)),
        "100.64.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "198.18.0.1",
        "255.255.255.255",
    ]
).map(ipaddress.IPv4Address)

BLOCKED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "5f00::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "198.20.0.1",
    "223.255.255.1",
]
PUBLIC_V6 = ["2606:4700:4700::1111", "2a00:1450::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", BLOCKED)
def test_nobody_reaches(text: str) -> None:
    assert not is_public(canonical(text))
    assert not AddressRules().admits("host.example.com", 443, canonical(text))


@pytest.mark.parametrize("text", [*PUBLIC, *PUBLIC_V6])
def test_everybody_reaches(text: str) -> None:
    assert is_public(canonical(text))


@given(st.one_of(V4, V6))
def test_what_is_public_here_is_global_to_the_standard_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Two readings of the registries; ours may only be stricter."""
    judged = canonical(str(address))
    if is_public(judged):
        assert judged.is_global
        assert not judged.is_multicast
        assert judged not in METADATA


@given(st.one_of(V4, SPECIAL))
def test_an_ipv4_address_within_an_ipv6_one_is_judged_by_itself_or_refused(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert is_public(canonical(str(ipaddress.IPv6Address(prefix | number)))) == is_public(inner)
        assert is_public(ipaddress.IPv6Address(prefix | number)) == is_public(inner)
    for disguised in (number, (0x2002 << 112) | (number << 80), (0x20010000 << 96) | (number ^ 0xFFFF_FFFF)):
        assert not is_public(ipaddress.IPv6Address(disguised))


@pytest.mark.parametrize(
    ("entry", "host", "port", "address", "admitted"),
    [
        ("10.1.0.0/16", "any.example.com", 80, "10.1.2.3", True),
        ("10.1.0.0/16", "any.example.com", 80, "10.2.2.3", False),
        ("10.1.2.3", "any.example.com", 9, "10.1.2.3", True),
        ("10.1.2.3:8443", "any.example.com", 8443, "10.1.2.3", True),
        ("10.1.2.3:8443", "any.example.com", 443, "10.1.2.3", False),
        ("fd00::/8", "any.example.com", 443, "fd12::1", True),
        ("[fd00::1]:443", "any.example.com", 443, "fd00::1", True),
        ("[fd00::1]:443", "any.example.com", 80, "fd00::1", False),
        ("minio.storage:9000", "minio.storage", 9000, "10.0.0.7", True),
        ("minio.storage:9000", "minio.storage", 9001, "10.0.0.7", False),
        ("minio.storage:9000", "evil.minio.storage", 9000, "10.0.0.7", False),
        ("169.254.0.0/16", "any.example.com", 80, "169.254.169.254", False),
        ("169.254.169.254:80", "169.254.169.254", 80, "169.254.169.254", False),
        ("metadata.internal:80", "metadata.internal", 80, "fd00:ec2::254", False),
    ],
)
def test_an_opening_admits_what_it_says_and_never_metadata(
    entry: str, host: str, port: int, address: str, admitted: bool
) -> None:
    rules = AddressRules((Opening.parse(entry),))
    assert rules.admits(host, port, canonical(address)) is admitted


def test_a_denied_network_wins() -> None:
    rules = AddressRules((Opening.parse("8.8.8.0/24"),), (ipaddress.ip_network("8.8.0.0/16"),))
    assert not rules.admits("dns.example.com", 443, canonical("8.8.8.8"))
    assert rules.admits("dns.example.com", 443, canonical("8.9.8.8"))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("0.0.0.0/0", "every address"),
        ("::/0", "every address"),
        ("minio.storage", "needs a port"),
        ("10.0.0.1:0", "no port"),
        ("10.0.0.1:99999", "no port"),
        ("10.0.0.1:x", "no port"),
        ("10.0.0.1/8", "no network"),
        ("10.0.0.0/33", "no network"),
        ("", "no network"),
        (":80", "no network"),
    ],
)
def test_a_bad_entry_is_refused_by_name(entry: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Opening.parse(entry)
