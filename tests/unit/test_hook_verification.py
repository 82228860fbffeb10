"""Signatures of deliveries: the three ways that are understood, and nothing that only looks like one."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacore.addons.inbound.verification import verify
from metacore.errors import Unauthenticated

NOW = 1_800_000_000.0
BODY = b'{"paid": true}'
PATH = "/api/metacore/hooks/x/paid"
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


def standard(body: bytes = BODY, *, key: bytes = b"k" * 24, at: float = NOW, prefix: str = "webhook") -> dict[str, str]:
    timestamp = str(int(at))
    mac = hmac.new(key, f"msg_1.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        f"{prefix}-id": "msg_1",
        f"{prefix}-timestamp": timestamp,
        f"{prefix}-signature": "v1a,AAAA v1," + base64.b64encode(mac).decode(),
    }


def own(body: bytes = BODY, *, key: bytes = b"plain secret", at: float = NOW, path: str = PATH) -> dict[str, str]:
    text = f"{int(at)}.POST.{path}.n0nce.{hashlib.sha256(body).hexdigest()}"
    signature = "sha256=" + hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {"x-metacore-timestamp": str(int(at)), "x-metacore-nonce": "n0nce", "x-metacore-signature": signature}


def hub(body: bytes = BODY, *, key: bytes = b"plain secret") -> dict[str, str]:
    signature = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": signature, "x-github-delivery": "d-1"}


def checked(secret: str, headers: Mapping[str, str], body: bytes = BODY, *, method: str = "POST") -> str:
    return verify(secret, method, PATH, headers, body, NOW)


def test_each_way_of_signing_is_understood_and_gives_its_id() -> None:
    assert checked(SECRET, standard()) == "msg_1"
    assert checked(SECRET, standard(prefix="svix")) == "msg_1"
    assert checked("plain secret", standard(key=b"plain secret")) == "msg_1"
    assert checked("plain secret", own()) == "n0nce"
    assert checked("ab" * 32, own(key=b"\xab" * 32)) == "n0nce"
    assert checked("plain secret", hub()) == "d-1"
    assert checked("plain secret", {**hub(), "x-github-delivery": ""}) == ""
    # Senders of the third kind know nothing of whsec_: to them a secret is its characters.
    assert checked(SECRET, hub(key=SECRET.encode())) == "d-1"


def test_the_example_of_standard_webhooks_verifies() -> None:
    """From the reference libraries' own tests (standard-webhooks/standard-webhooks)."""
    secret, identifier, timestamp = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
    headers = {
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verify(secret, "POST", "/", headers, b'{"test": 2432232314}', float(timestamp)) == identifier


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer x"},
        standard(b"another body"),
        standard(key=b"another key"),
        standard(at=NOW - 301),
        standard(at=NOW + 301),
        {**standard(), "webhook-id": "msg_2"},
        {**standard(), "webhook-id": ""},
        {**standard(), "webhook-timestamp": "1800000001"},
        {**standard(), "webhook-timestamp": "NaN"},
        {**standard(), "webhook-timestamp": "-1"},
        {**standard(), "webhook-timestamp": "１８０００００００"},
        {**standard(), "webhook-signature": ""},
        {**standard(), "webhook-signature": "v1,"},
        {**standard(), "webhook-signature": "v1"},
        {**standard(), "webhook-signature": standard()["webhook-signature"].replace("v1,", "v2,")},
        {**standard(), "webhook-signature": "v1,ü"},
        own(key=b"k" * 24, path="/another"),
        {**own(key=b"k" * 24), "x-metacore-nonce": "other"},
        {**own(key=b"k" * 24), "x-metacore-nonce": ""},
        own(key=b"k" * 24, at=NOW - 301),
        {"x-hub-signature-256": "sha256="},
        {"x-hub-signature-256": hmac.new(b"k" * 24, BODY, hashlib.sha256).hexdigest()},
        hub(b"another body", key=b"k" * 24),
        {"x-hub-signature": "sha1=" + hmac.new(b"k" * 24, BODY, hashlib.sha1).hexdigest()},
    ],
)
def test_whatever_differs_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        checked(SECRET, headers)


def test_the_method_is_under_our_own_signature() -> None:
    with pytest.raises(Unauthenticated):
        checked("plain secret", own(), method="PUT")


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), st.binary(max_size=40))
def test_no_made_up_signature_passes(identifier: str, timestamp: str, signature: str, body: bytes) -> None:
    for headers in (
        {"webhook-id": identifier, "webhook-timestamp": timestamp, "webhook-signature": signature},
        {"webhook-id": identifier, "webhook-timestamp": str(int(NOW)), "webhook-signature": f"v1,{signature}"},
        {"x-metacore-timestamp": str(int(NOW)), "x-metacore-nonce": identifier, "x-metacore-signature": signature},
        {"x-hub-signature-256": f"sha256={signature}"},
    ):
        with pytest.raises(Unauthenticated):
            checked(SECRET, headers, body)


def test_an_id_that_is_too_long_is_known_by_its_hash() -> None:
    headers = {**hub(), "x-github-delivery": "d" * 1000}
    assert checked("plain secret", headers) == "sha256:" + hashlib.sha256(b"d" * 1000).hexdigest()
