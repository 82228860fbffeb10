"""Which keys may sign, as one Secret of the release says it. The operator follows it; kernels never read it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

from metacore.bundle.signature import TrustedKeys
from metacore.errors import Misconfigured, NotFound, Unavailable
from metacore_operator.api_server import ApiServer
from metacore_operator.trust import parse_keys


class SecretTrust:
    """Public keys in every entry of a Secret, one in hex a line, together with the fixed `keys`.

    A Secret that is gone trusts nobody. One that cannot be read or understood is an error, and what was trusted before
    stays until it is mended: an API server that is away must not fence every addon. `known` is false until the first
    time that it could be read; nobody is given keys before, since everything that is signed would look refused, and
    with unsigned bundles allowed everything else accepted.
    """

    def __init__(
        self, api: ApiServer, namespace: str, name: str, keys: Sequence[str] = (), *, allow_unsigned: bool = False
    ) -> None:
        self._api = api
        self._name = name
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self._keys = tuple(keys)
        self._allow_unsigned = allow_unsigned
        self._current = TrustedKeys.from_hex(list(self._keys), allow_unsigned=allow_unsigned)
        self.known = False

    def current(self) -> TrustedKeys:
        """The keys that count now.

        Raises:
            Unavailable: they are not known yet.
        """
        if not self.known:
            raise Unavailable("the trusted keys are not known yet")
        return self._current

    async def reload(self) -> bool:
        """Read the Secret again; true when the trusted keys changed.

        Raises:
            Misconfigured: an entry that cannot be understood, with the line.
            MetacoreError: it cannot be read.
        """
        try:
            document = await self._api.get(self._path)
        except NotFound:
            document = {}
        found = [*self._keys, *_keys(document.get("data") or {}, self._name)]
        before = self._current
        self._current = TrustedKeys.from_hex(list(dict.fromkeys(found)), allow_unsigned=self._allow_unsigned)
        self.known = True
        return before != self._current


def _keys(entries: Mapping[str, str], name: str) -> list[str]:
    keys: list[str] = []
    for entry, value in sorted(entries.items()):
        where = f"Secret {name}, entry {entry}"
        try:
            text = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError) as error:
            raise Misconfigured(f"{where} is no text") from error
        keys.extend(parse_keys(text, where))
    return keys
