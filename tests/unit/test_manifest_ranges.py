"""Version ranges, and which manifests this kernel serves."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.manifests import read, v2, v3

from metacore.errors import InvalidInput, Refused
from metacore.manifest.compatibility import check_kernel, satisfies
from metacore.manifest.ranges import parse_range, parse_version


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        (">=2.0.0 <3.0.0", ["2.0.0", "2.9.9"], ["1.9.9", "3.0.0", "2.1.0-rc.1"]),
        (">= 2.0.0, < 3.0.0", ["2.5.0"], ["3.0.0"]),
        (">=2.0.0<3.0.0", ["2.5.0"], ["3.0.0"]),
        ("^1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("~>1.2", ["1.2.0", "1.2.7"], ["1.3.0"]),
        ("1.x", ["1.0.0", "1.9.9"], ["2.0.0", "0.9.0"]),
        ("1.2.*", ["1.2.0"], ["1.3.0"]),
        ("1", ["1.5.0"], ["2.0.0"]),
        ("v1.2.3", ["1.2.3"], ["1.2.4"]),
        ("=1.2.3", ["1.2.3", "1.2.3+build.5"], ["1.2.4"]),
        ("*", ["0.0.1", "9.9.9"], ["1.0.0-alpha"]),
        ("", ["1.0.0"], []),
        ("1.2 - 1.4", ["1.2.0", "1.4.9"], ["1.5.0", "1.1.9"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        ("<=1.2", ["1.2.9"], ["1.3.0"]),
        ("!=1.2.3", ["1.2.4"], ["1.2.3"]),
        ("1.2.3 || >=2.0.0", ["1.2.3", "2.1.0"], ["1.2.4"]),
        (">=1.2.0-rc.1", ["1.2.0-rc.2", "1.2.0", "1.3.0"], ["1.2.0-alpha", "1.3.0-rc.1"]),
    ],
)
def test_what_lies_in_a_range(written: str, inside: list[str], outside: list[str]) -> None:
    assert all(satisfies(version, written) for version in inside)
    assert not any(satisfies(version, written) for version in outside)


@pytest.mark.parametrize(
    "written",
    ["latest", ">=", "1.2.3.4", "><1", "^^1", "1 ||", "||", "<*", "1.2.3foo", ">=1.0.0 and <2", "1" * 300, "01.2.3"],
)
def test_what_is_no_range(written: str) -> None:
    with pytest.raises(InvalidInput):
        parse_range(written)


@pytest.mark.parametrize("written", ["1", "1.2", "v1.2.3", "1.2.3.4", "a.b.c", "", "1.2.3-", "01.2.3", "1.2.3 "])
def test_versions_are_strictly_semantic(written: str) -> None:
    with pytest.raises(InvalidInput):
        parse_version(written)


@given(st.text(alphabet="0123456789.xX*<>=^~!|- ,vab", max_size=40))
def test_no_text_breaks_the_reader(written: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse_range(written).admits(parse_version("1.2.3"))


@pytest.mark.parametrize("kernel", [">=2.0.0 <3.0.0", "*", "^2.1", ">=0.1.0", "2.x", ">=2.3.0 <3.0.0"])
def test_v2_manifests_are_served_by_contract_2(kernel: str) -> None:
    check_kernel(read(v2(kernel=kernel)))


@pytest.mark.parametrize("kernel", [">=3.0.0 <4.0.0", "<2.0.0", "^1.0.0", ">=9.0.0"])
def test_other_v2_manifests_are_refused(kernel: str) -> None:
    with pytest.raises(Refused, match=r"manifest\.kernel: .*2\.x") as caught:
        check_kernel(read(v2(kernel=kernel)))
    assert caught.value.code == "kernel_version"
    assert [problem.field for problem in caught.value.problems] == ["manifest.kernel"]


def test_v3_manifests_are_served_by_contract_3_only() -> None:
    check_kernel(read(v3()))
    check_kernel(read(v3(compatibility=None)))
    requires = [{"key": "other"}, {"key": "kernel", "version": ">=2.0.0 <3.0.0"}]
    with pytest.raises(Refused, match=r"manifest\.compatibility\.requires\[1\]\.version: .*3\.x") as caught:
        check_kernel(read(v3(compatibility={"requires": requires})))
    assert [problem.field for problem in caught.value.problems] == ["manifest.compatibility.requires[1].version"]
