"""Images without an image registry: the sandbox, a Debian base, and the project's own Dockerfile on it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster.build import BuildFailed, cache_root
from tests.cluster.configuration import SANDBOX_IMAGE
from tests.cluster.node import Node

ROOT = Path(__file__).parents[2]
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE_RELEASE = "bookworm"
BUILDAH = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
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
            _save(SANDBOX_IMAGE, archive)
    return archive


def base_image(say: Callable[[str], None]) -> str:
    """A Debian with Python, as the `BASE` of the Dockerfile; made once from Debian's packages. Returns its name."""
    name = f"metacore.local/base:{_short(BASE_RELEASE + BASE_PACKAGES)}"
    if subprocess.run(
        ["buildah", "inspect", name], env={**os.environ, **BUILDAH}, capture_output=True, check=False
    ).returncode:
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


def project_image(node: Node, tag: str, say: Callable[[str], None]) -> str:
    """Build the project's Dockerfile, push it to the node's registry and return `registry/metacore:tag`."""
    name = f"{node.registry}/metacore:{tag}"
    base = base_image(say)
    say("building the image from the project's Dockerfile …")
    arguments = ["bud", "--layers", "--build-arg", f"BASE={base}", "--tag", name]
    authority = os.environ.get("SSL_CERT_FILE")
    if authority:
        # Networks with an authority of their own: the file is there during the build and leaves no trace in the image.
        arguments += ["--secret", f"id=ca,src={authority}"]
    _buildah(*arguments, "--file", str(ROOT / "Dockerfile"), str(ROOT))
    say(f"pushing {name} …")
    _buildah("push", "--tls-verify=false", name)
    return name


def import_sandbox(node: Node) -> None:
    """Give the sandbox image to containerd; no pod starts without it."""
    ctr = [str(node.binaries / "ctr"), "--address", f"{node.state}/run/containerd.sock", "-n", "k8s.io"]
    _run([*ctr, "images", "import", str(sandbox_archive())])


def _save(name: str, archive: Path) -> None:
    fresh = archive.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    _buildah("push", name, f"oci-archive:{fresh}:{name}")
    fresh.rename(archive)


def _buildah(*arguments: str) -> str:
    return _run(["buildah", *arguments], BUILDAH).strip()


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BuildFailed(f"{' '.join(command[:3])} failed:\n{last}")
    return done.stdout


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
