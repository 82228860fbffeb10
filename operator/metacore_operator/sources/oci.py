"""Bundles that are artifacts in an OCI registry, pulled over the distribution API (OCI distribution-spec 1.1)."""

from __future__ import annotations

import base64
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
from metacore_operator.sources.references import References
from metacore_operator.sources.source import LARGEST_BUNDLE, LARGEST_SIGNATURE, Fetched

BUNDLE_TYPE = "application/vnd.metacore.bundle.v1.tar+gzip"
SIGNATURE_TYPE = "application/vnd.metacore.signature.v1+json"
MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
TITLE = "org.opencontainers.image.title"
LARGEST_MANIFEST = 4 * 1024 * 1024
LARGEST_TOKEN = 256 * 1024
DOCKER_HUB = "registry-1.docker.io"

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


class OciSource:
    """Pulls the layer of type BUNDLE_TYPE, or the only one that is no signature, and the signature beside it.

    Every digest is checked against the bytes. `plain` registries speak HTTP; all others TLS.
    """

    def __init__(self, downloader: Downloader, references: References, plain: Sequence[str] = ()) -> None:
        self._downloader = downloader
        self._references = references
        self._plain = frozenset(plain)

    async def fetch(self, addon: Addon) -> Fetched:
        source = addon.spec.source.oci
        if source is None:
            raise Refused("the Addon names no OCI reference", code="source_refused")
        reference = Reference.parse(source.ref)
        login = None
        if source.pull_secret_ref is not None:
            entries = await self._references.secret(addon, source.pull_secret_ref.name)
            login = credentials(entries, reference.registry, source.pull_secret_ref.name)
        scheme = "http" if reference.registry in self._plain else "https"
        pull = _Pull(self._downloader, f"{scheme}://{reference.registry}", reference, login)
        try:
            manifest = await pull.manifest()
            bundle, signature = chosen_layers(manifest, source.ref)
            content = await pull.blob(bundle, LARGEST_BUNDLE)
            beside = await pull.blob(signature, LARGEST_SIGNATURE) if signature is not None else None
        except (NotFound, PermissionDenied) as error:
            raise Unavailable(error.message) from error
        return Fetched(content, beside, source.ref)


class _Pull:
    """One pull: asks without credentials first, and again with what the registry wants."""

    def __init__(self, downloader: Downloader, base: str, reference: Reference, login: str | None) -> None:
        self._downloader = downloader
        self._base = base
        self._reference = reference
        self._login = login
        self._headers: dict[str, str] = {}

    async def manifest(self) -> Mapping[str, Any]:
        name = self._reference.digest or self._reference.tag
        url = f"{self._base}/v2/{self._reference.repository}/manifests/{name}"
        answer = await self._get(url, LARGEST_MANIFEST, {"Accept": MANIFEST_TYPES})
        if self._reference.digest:
            _check(answer.content, self._reference.digest, "the manifest")
        try:
            manifest = orjson.loads(answer.content)
        except orjson.JSONDecodeError as error:
            raise Refused("the registry's manifest is no JSON", code="source_refused") from error
        if not isinstance(manifest, dict):
            raise Refused("the registry's manifest is no JSON object", code="source_refused")
        return manifest

    async def blob(self, layer: Mapping[str, Any], limit: int) -> bytes:
        digest, size = layer.get("digest"), layer.get("size")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise Refused(f"the manifest names a layer {digest!r}, which is no SHA-256 digest", code="source_refused")
        if not isinstance(size, int) or not 0 <= size <= limit:
            raise Refused(f"the layer has {size!r} bytes, at most {limit} are read", code="source_refused")
        answer = await self._get(f"{self._base}/v2/{self._reference.repository}/blobs/{digest}", limit, {})
        _check(answer.content, digest, "the layer")
        return answer.content

    async def _get(self, url: str, limit: int, headers: Mapping[str, str]) -> Answer:
        answer = await self._downloader.get(
            url, limit=limit, headers={**headers, **self._headers}, also=frozenset({401})
        )
        if answer.status == 401:
            await self._authorize(answer.headers.get("www-authenticate", ""))
            answer = await self._downloader.get(url, limit=limit, headers={**headers, **self._headers})
        return answer

    async def _authorize(self, challenge: str) -> None:
        kind, _, rest = challenge.partition(" ")
        basic = {"Authorization": f"Basic {self._login}"} if self._login else {}
        if kind.lower() == "basic" and basic:
            self._headers = basic
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
        answer = await self._downloader.get(
            f"{realm}?{urlencode(query, quote_via=quote)}", limit=LARGEST_TOKEN, headers=basic
        )
        try:
            document = orjson.loads(answer.content)
            token = document.get("token") or document["access_token"]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise Unavailable("the registry's token service gave no token") from error
        self._headers = {"Authorization": f"Bearer {token}"}


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


def credentials(entries: Mapping[str, bytes], registry: str, secret: str) -> str | None:
    """The basic credentials for `registry` in a Secret of type kubernetes.io/dockerconfigjson; None when it has none.

    Raises:
        Refused: the Secret is no such one.
    """
    try:
        auths = orjson.loads(entries[".dockerconfigjson"])["auths"]
        names = {registry, f"https://{registry}", f"http://{registry}"}
        if registry == DOCKER_HUB:
            names |= {"docker.io", "https://index.docker.io/v1/"}
        for name, entry in auths.items():
            if name.rstrip("/") in names or name in names:
                if entry.get("auth"):
                    return str(entry["auth"])
                return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"Secret {secret!r} is not of type kubernetes.io/dockerconfigjson", code="source_refused"
        ) from error
    return None


def _is_signature(layer: Mapping[str, Any]) -> bool:
    title = str((layer.get("annotations") or {}).get(TITLE, ""))
    return layer.get("mediaType") == SIGNATURE_TYPE or title.endswith(SIGNATURE_SUFFIX)


def _check(content: bytes, digest: str, what: str) -> None:
    found = "sha256:" + hashlib.sha256(content).hexdigest()
    if found != digest:
        raise Refused(f"{what} has digest {found}, {digest} was asked for", code="source_refused")
