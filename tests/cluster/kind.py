"""`python -m tests.cluster.kind up|down`: the same release with Docker, on kind, as `make kind` runs it.

Docker, kind, kubectl and helm are those on PATH. A registry beside the cluster takes the image, at the same address for
this machine and for the nodes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "kind"
CLUSTER = "metacore"
CONTEXT = f"kind-{CLUSTER}"
NAMESPACE = "metacore"
REGISTRY = "metacore-registry"
REGISTRY_ADDRESS = "localhost:5001"
PROGRAMS = ("docker", "kind", "kubectl", "helm")

NEXT = f"""
Metacore runs in the namespace {NAMESPACE}. Type next:

  kubectl config use-context {CONTEXT}
  kubectl -n {NAMESPACE} get pods
  kubectl -n {NAMESPACE} port-forward service/metacore 8000:80
  tilt up     # changes of the code arrive in the pods within seconds

README.md goes on from here under "On Kubernetes". make kind-down takes everything away."""

HOSTING = f"""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: local-registry-hosting
  namespace: kube-public
data:
  localRegistryHosting.v1: |
    host: "{REGISTRY_ADDRESS}"
"""
"""How tools such as Tilt find the registry (KEP-1755)."""


class KindFailed(Exception):
    """What is missing, or what a program said."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.kind", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    command = parser.parse_args().command
    try:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise KindFailed(f"not on PATH: {', '.join(missing)}; as root on Linux, make cluster needs none of them")
        {"up": up, "down": down}[command]()
    except KindFailed as error:
        sys.exit(f"kind: {error}")


def up() -> None:
    """Make what is missing of cluster and registry, build and push the image, install or upgrade the release."""
    if CLUSTER not in run("kind", "get", "clusters").split():
        say("creating the cluster …")
        run("kind", "create", "cluster", "--config", str(FILES / "cluster.yaml"), "--wait", "120s")
    if REGISTRY not in run("docker", "ps", "--format", "{{.Names}}").split():
        say("starting the registry …")
        run("docker", "rm", "--force", REGISTRY)
        port = REGISTRY_ADDRESS.partition(":")[2]
        published = f"127.0.0.1:{port}:5000"
        run("docker", "run", "--detach", "--publish", published, "--network", "kind", "--name", REGISTRY, "registry:3")
    for node in run("kind", "get", "nodes", "--name", CLUSTER).split():
        folder = f"/etc/containerd/certs.d/{REGISTRY_ADDRESS}"
        run("docker", "exec", node, "mkdir", "-p", folder)
        host = f'[host."http://{REGISTRY}:5000"]\n'
        run("docker", "exec", "--interactive", node, "cp", "/dev/stdin", f"{folder}/hosts.toml", stdin=host)
    run("kubectl", "--context", CONTEXT, "apply", "-f", "-", stdin=HOSTING)

    tag = str(int(time.time()))
    image = f"{REGISTRY_ADDRESS}/metacore:{tag}"
    say(f"building and pushing {image} …")
    run("docker", "build", "--tag", image, str(ROOT))
    run("docker", "push", image)
    say("installing the chart …")
    helm = ("helm", "--kube-context", CONTEXT, "upgrade", "--install", "metacore", str(ROOT / "charts" / "metacore"))
    values = ("--values", str(FILES / "values.yaml"), "--set-string", f"image.tag={tag}")
    run(*helm, "--namespace", NAMESPACE, "--create-namespace", *values, "--wait", "--timeout", "5m")
    print(NEXT)


def down() -> None:
    run("kind", "delete", "cluster", "--name", CLUSTER)
    run("docker", "rm", "--force", "--volumes", REGISTRY)


def run(*command: str, stdin: str | None = None) -> str:
    """What a program printed; KindFailed with what it said when it failed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KindFailed(f"{' '.join(command[:4])}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def say(line: str) -> None:
    print(f"kind: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
