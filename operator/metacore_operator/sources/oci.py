"""Bundles that are artifacts in an OCI registry, pulled over the distribution API (OCI distribution-spec 1.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from metacore.errors import NotFound, PermissionDenied, Refused, Unavailable
from metacore_operator.resources.addon import Addon
from metacore_operator.sources.download import Answer, Downloader
from metacore_operator.sources.folder import SIGNATURE_SUFFIX
from metacore_operator.sources.logins import DOCKER_HUB, Login, login_of
from metacore_operator.sources.memory import Memory
from metacore_operator.sources.references import References
from metacore_operator.sources.source import LARGEST_BUNDLE, LARGEST_SIGNATURE, Fetched, Look, Stored, nothing_stored

BUNDLE_TYPE = "application/vnd.metacore.bundle.v1.tar+gzip"
SIGNATURE_TYPE = "application/vnd.metacore.signature.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
    f"{INDEX_TYPE}, application/vnd.docker.distribution.manifest.list.v2+json"
)
CREATED = "org.opencontainers.image.created"
TITLE = "org.opencontainers.image.title"
LARGEST_MANIFEST = 4 * 1024 * 1024
LARGEST_TOKEN = 256 * 1024
NO_HEAD: frozenset[int] = frozenset({405, 501})
"""Answers of a registry that knows GET only."""

_REFERENCE = re.compile(
    r"(?P<registry>[A-Za-z0-9.\-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?)/"
    r"(?P<repository>[a-z0-9]+([._\-]+[a-z0-9]+)*(/[a-z0-9]+([._\-]+[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._\-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reference:
    """A digest wins over a tag; without either the tag is `latest`."""

    registry: str
    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises Refused for what names no artifact; the registry is never guessed."""
        found = _REFERENCE.fullmatch(text.removeprefix("oci://"))
        if found is None:
            raise Refused(
                f"{text!r} is no reference like registry.example.com/addons/tickets:1.0.0", code="source_refused"
            )
        registry = found["registry"]
        return cls(
            DOCKER_HUB if registry in ("docker.io", "index.docker.io") else registry,
            found["repository"],
            found["tag"] or "latest",
            found["digest"] or "",
        )


@dataclass(frozen=True, slots=True)
class _Pulled:
    """`named` is the digest that the tag meant, `bundle` that of the bundle in hex."""

    named: str
    bundle: str
    signature: bytes | None


class OciSource:
    """Pulls the layer of type BUNDLE_TYPE, or the only one that is no signature, and the signature: a layer beside it,
    or an artifact of type SIGNATURE_TYPE that refers to the bundle's (`oras attach`).

    Every digest is checked against the bytes. `plain` registries speak HTTP; all others TLS. Of what was pulled and is
    stored still, a digest is not asked for again, and a tag only what it means now: by HEAD, which does not count as a
    pull where pulls are counted.
    """

    def __init__(self, downloader: Downloader, references: References, plain: Sequence[str] = ()) -> None:
        self._downloader = downloader
        self._references = references
        self._plain = frozenset(plain)
        self._memory: Memory[_Pulled] = Memory()

    async def fetch(self, addon: Addon, stored: Stored = nothing_stored, *, look: Look = Look.CHEAP) -> Fetched:
        source = addon.spec.source.oci
        if source is None:
            raise Refused("the Addon names no OCI reference", code="source_refused")
        reference = Reference.parse(source.ref)
        asked = source.model_dump_json()
        pulled = self._memory.recall(addon, asked) if look is Look.CHEAP else None
        known = await stored(pulled.bundle) if pulled is not None else None
        if pulled is not None and known is not None and reference.digest:
            return Fetched(known, pulled.signature, source.ref)
        login = Login()
        if source.pull_secret_ref is not None:
            entries = await self._references.secret(addon, source.pull_secret_ref.name)
            login = login_of(entries, reference.registry, source.pull_secret_ref.name)
        scheme = "http" if reference.registry in self._plain else "https"
        pull = _Pull(self._downloader, f"{scheme}://{reference.registry}", reference, login)
        try:
            if pulled is not None and known is not None and await pull.resolved() == pulled.named:
                return Fetched(known, pulled.signature, source.ref)
            manifest, digest = await pull.manifest()
            bundle, signature = chosen_layers(manifest, source.ref)
            # A registry calls the layer by the very digest by which the database keeps the bundle.
            name = str(bundle.get("digest")).removeprefix("sha256:")
            content = await stored(name)
            if content is None:
                content = await pull.blob(bundle, LARGEST_BUNDLE)
            if signature is None:
                signature = await pull.attached(digest)
            beside = await pull.blob(signature, LARGEST_SIGNATURE) if signature is not None else None
        except (NotFound, PermissionDenied) as error:
            raise Unavailable(error.message) from error
        self._memory.keep(addon, asked, _Pulled(pull.named, name, beside), beside)
        return Fetched(content, beside, source.ref)


class _Pull:
    """One pull: asks without credentials first, and again with what the registry wants.

    `named` is the digest that the reference means, known after `manifest`.
    """

    def __init__(self, downloader: Downloader, base: str, reference: Reference, login: Login) -> None:
        self._downloader = downloader
        self._base = base
        self._reference = reference
        self._login = login
        self._headers: dict[str, str] = {}
        self.named = ""

    async def resolved(self) -> str:
        """The digest that the reference means now; '' when the registry does not say it without a pull."""
        answer = await self._get(self._address(self._name), LARGEST_MANIFEST, {"Accept": MANIFEST_TYPES}, head=True)
        digest = answer.headers.get("docker-content-digest", "")
        return digest if _DIGEST.fullmatch(digest) else ""

    async def manifest(self) -> tuple[Mapping[str, Any], str]:
        """The artifact's manifest with its digest; of an index, the only one in it that can be meant."""
        name = self._name
        manifest, digest = await self._manifest(name, self._reference.digest)
        self.named = digest
        if "manifests" not in manifest:
            return manifest, digest
        entries = _descriptors(manifest)
        typed = [entry for entry in entries if entry.get("artifactType") == BUNDLE_TYPE]
        chosen = typed or entries
        if len(chosen) != 1:
            raise Refused(
                f"{self._reference.repository}:{name} is an index of {len(chosen)} artifacts; name one by its digest",
                code="source_refused",
            )
        return await self._described(chosen[0])

    async def attached(self, digest: str) -> Mapping[str, Any] | None:
        """The layer of the newest signature that refers to the artifact of `digest`, or None.

        Registries without the referrers API keep an index under a tag that is made of the digest instead.
        """
        query = urlencode({"artifactType": SIGNATURE_TYPE}, quote_via=quote)
        try:
            answer = await self._get(
                f"{self._repository}/referrers/{digest}?{query}", LARGEST_MANIFEST, {"Accept": INDEX_TYPE}
            )
            index = _document(answer.content)
        except NotFound:
            try:
                index, _ = await self._manifest(digest.replace(":", "-"), "")
            except NotFound:
                return None
        found = [entry for entry in _descriptors(index) if entry.get("artifactType") == SIGNATURE_TYPE]
        if not found:
            return None
        newest = max(found, key=lambda entry: str((entry.get("annotations") or {}).get(CREATED, "")))
        manifest, _ = await self._described(newest)
        layers = [layer for layer in manifest.get("layers") or () if isinstance(layer, dict)]
        if len(layers) != 1:
            raise Refused(f"the attached signature has {len(layers)} layers, one is needed", code="source_refused")
        return layers[0]

    async def blob(self, layer: Mapping[str, Any], limit: int) -> bytes:
        digest = _described_digest(layer, limit, "layer")
        answer = await self._get(f"{self._repository}/blobs/{digest}", limit, {})
        _check(answer.content, digest, "the layer")
        return answer.content

    @property
    def _name(self) -> str:
        return self._reference.digest or self._reference.tag

    def _address(self, name: str) -> str:
        return f"{self._repository}/manifests/{name}"

    @property
    def _repository(self) -> str:
        return f"{self._base}/v2/{self._reference.repository}"

    async def _described(self, descriptor: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        digest = _described_digest(descriptor, LARGEST_MANIFEST, "manifest")
        return await self._manifest(digest, digest)

    async def _manifest(self, name: str, digest: str) -> tuple[Mapping[str, Any], str]:
        """By tag or digest; with a `digest`, the bytes must have it."""
        answer = await self._get(self._address(name), LARGEST_MANIFEST, {"Accept": MANIFEST_TYPES})
        if digest:
            _check(answer.content, digest, "the manifest")
        return _document(answer.content), digest or _digest_of(answer.content)

    async def _get(self, url: str, limit: int, headers: Mapping[str, str], *, head: bool = False) -> Answer:
        also = NO_HEAD if head else frozenset()
        answer = await self._downloader.get(
            url, limit=limit, headers={**headers, **self._headers}, also=also | {401}, head=head
        )
        if answer.status == 401:
            await self._authorize(answer.headers.get("www-authenticate", ""))
            answer = await self._downloader.get(
                url, limit=limit, headers={**headers, **self._headers}, also=also, head=head
            )
        return answer

    async def _authorize(self, challenge: str) -> None:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._login.basic:
            self._headers = {"Authorization": f"Basic {self._login.basic}"}
            return
        if kind.lower() == "bearer" and self._login.registry_token:
            self._headers = {"Authorization": f"Bearer {self._login.registry_token}"}
            return
        if kind.lower() != "bearer":
            raise PermissionDenied(f"{self._reference.registry} asks for a login; set source.oci.pullSecretRef")
        wanted = dict(_PARAMETER.findall(rest))
        realm = wanted.get("realm", "")
        if self._base.startswith("https:") and urlsplit(realm).scheme != "https":
            raise Refused("the registry wants credentials sent without TLS", code="source_refused")
        query = {"scope": f"repository:{self._reference.repository}:pull"}
        if "service" in wanted:
            query["service"] = wanted["service"]
        self._headers = {"Authorization": f"Bearer {await self._token(realm, query)}"}

    async def _token(self, realm: str, query: Mapping[str, str]) -> str:
        """A token for pulling, asked with a password or anonymously, or with an identity token as OAuth2 has it."""
        if self._login.identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": self._login.identity_token}
            answer = await self._downloader.get(realm, limit=LARGEST_TOKEN, form={**form, "client_id": "metacore"})
        else:
            mark = "&" if "?" in realm else "?"
            basic = {"Authorization": f"Basic {self._login.basic}"} if self._login.basic else {}
            url = f"{realm}{mark}{urlencode(query, quote_via=quote)}"
            answer = await self._downloader.get(url, limit=LARGEST_TOKEN, headers=basic)
        try:
            document = orjson.loads(answer.content)
            token = document.get("token") or document["access_token"]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise Unavailable("the registry's token service gave no token") from error
        return str(token)


def chosen_layers(manifest: Mapping[str, Any], ref: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The layer with the bundle and the one with its signature, if any.

    Raises:
        Refused: it cannot be told which layer is the bundle.
    """
    layers = [layer for layer in manifest.get("layers") or () if isinstance(layer, dict)]
    signatures = [layer for layer in layers if _is_signature(layer)]
    rest = [layer for layer in layers if not _is_signature(layer)]
    typed = [layer for layer in rest if layer.get("mediaType") == BUNDLE_TYPE]
    bundles = typed or rest
    if len(bundles) != 1 or len(signatures) > 1:
        raise Refused(
            f"{ref} holds {len(bundles)} bundles and {len(signatures)} signatures; one bundle and at most one signature"
            " are needed",
            code="source_refused",
        )
    return bundles[0], signatures[0] if signatures else None


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Refused("the registry's manifest is no JSON", code="source_refused") from error
    if not isinstance(document, dict):
        raise Refused("the registry's manifest is no JSON object", code="source_refused")
    return document


def _descriptors(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    entries = index.get("manifests")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _described_digest(descriptor: Mapping[str, Any], limit: int, what: str) -> str:
    """The digest that a descriptor names. What it says to be larger than `limit` is not even asked for."""
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise Refused(f"the manifest names a {what} {digest!r}, which is no SHA-256 digest", code="source_refused")
    if not isinstance(size, int) or not 0 <= size <= limit:
        raise Refused(f"the {what} has {size!r} bytes, at most {limit} are read", code="source_refused")
    return digest


def _digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _is_signature(layer: Mapping[str, Any]) -> bool:
    title = str((layer.get("annotations") or {}).get(TITLE, ""))
    return layer.get("mediaType") == SIGNATURE_TYPE or title.endswith(SIGNATURE_SUFFIX)


def _check(content: bytes, digest: str, what: str) -> None:
    found = _digest_of(content)
    if found != digest:
        raise Refused(f"{what} has digest {found}, {digest} was asked for", code="source_refused")
