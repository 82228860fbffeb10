"""Images without an image registry: the sandbox, a Debian base, and the project's own Dockerfile on it.

All of it is in a store of its own below the cache. Layers that did not change are not built again, and an image that
the node's registry has already is not even looked at.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.build import BuildFailed, cache_root
from tests.cluster.configuration import SANDBOX_IMAGE
from tests.cluster.node import Node

ROOT = Path(__file__).parents[2]
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE_RELEASE = "bookworm"
PROJECT = "metacore.local/metacore"
KEPT_BUILDS = 6
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
PAUSE = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Holds the namespaces of a pod, and reaps what its containers leave behind. */
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"""


def sandbox_archive() -> Path:
    """The sandbox image as an archive that containerd imports; built once."""
    archive = cache_root() / "cluster" / f"pause-{_short(PAUSE + SANDBOX_IMAGE)}.tar"
    with _lock():
        if not archive.exists():
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "pause.c"
                source.write_text(PAUSE)
                _run(["cc", "-Os", "-static", "-o", f"{folder}/pause", str(source)])
                container = _buildah("from", "scratch")
                try:
                    _buildah("copy", container, f"{folder}/pause", "/pause")
                    _buildah("config", "--entrypoint", '["/pause"]', container)
                    _buildah("commit", container, SANDBOX_IMAGE)
                finally:
                    _buildah("rm", container)
                fresh = archive.with_suffix(".new")
                fresh.unlink(missing_ok=True)
                _buildah("push", SANDBOX_IMAGE, f"oci-archive:{fresh}:{SANDBOX_IMAGE}")
                fresh.rename(archive)
    return archive


def import_sandbox(node: Node) -> None:
    """Give the sandbox image to containerd; no pod starts without it."""
    ctr = [str(node.binaries / "ctr"), "--address", f"{node.state}/run/containerd.sock", "-n", "k8s.io"]
    if SANDBOX_IMAGE not in _run([*ctr, "images", "list", "-q"]).split():
        _run([*ctr, "images", "import", str(sandbox_archive())])


def project_image(node: Node, say: Callable[[str], None]) -> str:
    """The project's image in the node's registry, built from its Dockerfile when what goes into it changed.

    Returns `registry/metacore:<digest of what goes in>`.

    Raises:
        BuildFailed: with the last lines of what failed.
    """
    tag = project_tag()
    name = f"{node.registry}/metacore:{tag}"
    if _is_pushed(node.registry, tag):
        return name
    with _lock():
        base = _base_image(say)
        if not _has(f"{PROJECT}:{tag}"):
            say("building the image from the project's Dockerfile …")
            arguments = ["bud", "--layers", "--build-arg", f"BASE={base}", "--tag", f"{PROJECT}:{tag}"]
            authority = os.environ.get("SSL_CERT_FILE")
            if authority:
                # Networks with an authority of their own: there during the build, and no trace of it in the image.
                arguments += ["--secret", f"id=ca,src={authority}"]
            _buildah(*arguments, "--file", str(ROOT / "Dockerfile"), str(ROOT))
            _drop_old_builds()
        say(f"pushing {name} …")
        # The way is short; compressing would be most of the work.
        _buildah("push", "--tls-verify=false", "--disable-compression", f"{PROJECT}:{tag}", f"docker://{name}")
    return name


def project_tag() -> str:
    """A digest of everything that decides what the image is."""
    digest = hashlib.sha256(f"{BASE_RELEASE} {BASE_PACKAGES}".encode())
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in sorted(["Dockerfile", *(line.removeprefix("!") for line in lines if line.startswith("!"))]):
        found = ROOT / name
        for path in sorted(found.rglob("*")) if found.is_dir() else [found]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode:o}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _base_image(say: Callable[[str], None]) -> str:
    """A Debian with Python, as the `BASE` of the Dockerfile; made once from Debian's packages. Returns its name."""
    name = f"metacore.local/base:{_short(BASE_RELEASE + BASE_PACKAGES)}"
    if not _has(name):
        say("making a Debian base image …")
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/base.tar"
            _run(["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", BASE_RELEASE, archive])
            container = _buildah("from", "scratch")
            try:
                _buildah("add", container, archive, "/")
                _buildah("commit", container, name)
            finally:
                _buildah("rm", container)
    return name


def _drop_old_builds() -> None:
    """Keep the newest; the layers that only older ones had go with them."""
    images = json.loads(_buildah("images", "--json"))
    newest = sorted(images, key=lambda image: str(image["createdatraw"]), reverse=True)
    builds = [name for image in newest for name in image["names"] or () if name.startswith(f"{PROJECT}:")]
    for name in builds[KEPT_BUILDS:]:
        _buildah("rmi", name)


def _is_pushed(registry: str, tag: str) -> bool:
    url = f"http://{registry}/v2/metacore/manifests/{tag}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD", headers={"Accept": MANIFESTS})):
            return True
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 404:
                raise
        return False


def _has(image: str) -> bool:
    command = [*_store(), "inspect", "--type", "image", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@functools.cache
def _store() -> tuple[str, ...]:
    """buildah on a store of its own: with overlay file systems where the kernel lets it, else with plain copies."""
    folder = cache_root() / "cluster" / "containers"
    places = ["--root", f"{folder}/store", "--runroot", f"{folder}/run"]
    for driver in ("overlay", "vfs"):
        command = ("buildah", *places, "--storage-driver", driver)
        done = subprocess.run([*command, "info"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return command
    raise BuildFailed(f"buildah cannot keep images in {folder}: {done.stderr.strip()[-400:]}")


def _buildah(*arguments: str) -> str:
    return _run([*_store(), *arguments]).strip()


def _run(command: Sequence[str]) -> str:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BuildFailed(f"{' '.join(command)} failed:\n{last}")
    return done.stdout


@contextmanager
def _lock() -> Iterator[None]:
    """One at a time: two builds would make the same layers twice."""
    folder = cache_root() / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "images.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
