"""The real command in a process of its own: what it prints, what it leaves behind, how it ends."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.bundles import FILES, MANIFEST, tar_gz
from tests.manifests import v2

from metacore.bundle.keyfile import read_private_key
from metacore.bundle.read import read_bundle
from metacore.cli.commands import LAZY

COMMAND = Path(sys.executable).with_name("metacore")
OURS = ("MARKETPLACE_PUBKEY", "MARKETPLACE_PUBKEYS", "ALLOW_UNSIGNED_BUNDLES", "PYTHONIOENCODING", "NO_COLOR")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `metacore` in an empty folder with a home of its own; `env` adds variables."""

    def call(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if key not in OURS and not key.startswith("METACORE_")}
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env={**kept, "METACORE_HOME": str(tmp_path / "home"), "COLUMNS": "200", **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """It ended with `code`, said `words` on stderr, nothing on stdout, and showed no traceback."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def made_addon(path: Path, manifest: dict[str, Any] | None = None) -> Path:
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    if manifest is not None:
        (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_from_nothing_to_a_verified_bundle(run: Run, tmp_path: Path) -> None:
    key = run("keys", "new")
    public = key.stdout.strip()
    assert (key.returncode, len(public)) == (0, 64)
    assert run("bundle", "init", "desk").returncode == 0
    assert run("bundle", "validate", "desk").stdout == "desk 0.1.0 is valid (v3)\n"
    built = run("bundle", "build", "desk")
    bundle = tmp_path / "dist" / "desk-0.1.0.tar.gz"
    assert built.stdout.startswith(f"{bundle}\nsha256 ")
    assert run("bundle", "sign", bundle, "--developer-name", "Ada").stdout.endswith(f"signed by {public}\n")
    verified = run("bundle", "verify", bundle)
    assert (verified.returncode, verified.stdout) == (0, f"desk 0.1.0 is signed by {public} (Ada)\n")


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_what_init_writes_builds_and_reads(run: Run, tmp_path: Path, version: str) -> None:
    assert run("bundle", "init", "Help Desk", *(["--v2"] if version == "v2" else [])).returncode == 0
    checked = run("bundle", "validate", "Help Desk")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert run("bundle", "build", "Help Desk", "-o", "x.tar.gz").returncode == 0
    manifest = read_bundle((tmp_path / "x.tar.gz").read_bytes()).manifest
    assert (manifest.api, manifest.key, len(manifest.models)) == (version, "help_desk", 1)


def test_init_overwrites_nothing_and_wants_a_real_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "README.md").write_text("mine")
    refused(run("bundle", "init", "desk"), "exists already")
    assert not (tmp_path / "desk" / "manifest.json").exists()
    refused(run("bundle", "init", "other", "--key", "Not A Key"), "cannot be the key")
    assert run("bundle", "init", "desk", "--force").returncode == 0


def test_two_builds_are_the_same_bytes(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon")
    first = json.loads(run("bundle", "build", folder, "-o", "a.tar.gz", "--json").stdout)
    (folder / "README.md").touch()
    second = json.loads(run("bundle", "build", folder, "-o", "b.tar.gz", "--json").stdout)
    assert first["digest"] == second["digest"]
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_validate_prints_every_problem(run: Run, tmp_path: Path) -> None:
    manifest = v2(name=None, version="1", backend={"runtime": "wasm", "entry": "backend/other.wasm"})
    manifest["model_definitions"][0]["columns"][0]["default"] = "drop table"
    folder = made_addon(tmp_path / "addon", manifest)
    (folder / "migrations" / "0003_evil.sql").write_text("SET ROLE postgres;")
    done = run("bundle", "validate", folder)
    refused(done, "manifest.name: is required", "manifest.version:", "columns[0].default:", "0003_evil.sql")
    found = json.loads(run("bundle", "validate", folder, "--json").stdout)
    assert not found["valid"]
    assert len(found["problems"]) == 4
    (tmp_path / "manifest.json").write_text(json.dumps(v2(backend={"runtime": "wasm", "entry": "backend/other.wasm"})))
    (folder / "manifest.json").write_text((tmp_path / "manifest.json").read_text())
    refused(run("bundle", "validate", folder), "'backend/other.wasm' is not in the bundle")


def test_validate_takes_folders_manifests_and_bundles(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon")
    run("bundle", "build", folder, "-o", "a.tar.gz")
    for path in (folder, folder / "manifest.json", "a.tar.gz"):
        assert run("bundle", "validate", path).stdout == "tickets 1.0.0 is valid (v2)\n"


def test_validate_names_warnings_and_passes(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon", v2(futureKey=1))
    done = run("bundle", "validate", folder)
    assert done.returncode == 0
    assert "warning: manifest.futureKey: not a key of the contract" in done.stderr


def test_a_kernel_that_is_not_served_is_a_problem(run: Run, tmp_path: Path) -> None:
    refused(run("bundle", "validate", made_addon(tmp_path / "addon", v2(kernel=">=9.0.0"))), "asks for kernel")


def test_a_broken_addon_is_not_built(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon", v2(version="1"))
    refused(run("bundle", "build", folder), "manifest.version")
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a gzip"),
        (b"\x1f\x8b\x08", "cut off"),
        (tar_gz([("../x", b"1"), MANIFEST]), "climbs out"),
        (tar_gz([("manifest.json", b"\xff{")]), "not UTF-8 at line 1, column 1"),
        (tar_gz([("manifest.json", b'{"key":')]), "not JSON"),
        (tar_gz([("README.md", b"")]), "manifest.json"),
        (tar_gz([("frontend/\x1b[2J", b""), MANIFEST]), "control character"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "validate", "sign", "verify"])
def test_hostile_bundles_end_in_a_message(run: Run, tmp_path: Path, command: str, content: bytes, words: str) -> None:
    run("keys", "new")
    (tmp_path / "bad.tar.gz").write_bytes(content)
    env = {"ALLOW_UNSIGNED_BUNDLES": "true"} if command == "verify" else {}
    (tmp_path / "home" / "keys" / "dev.pub").unlink()
    done = run("bundle", command, "bad.tar.gz", env=env)
    refused(done, words)
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "bad.tar.gz.sig.json").exists()


def test_one_flipped_byte_is_refused(run: Run, tmp_path: Path) -> None:
    run("keys", "new")
    run("bundle", "build", made_addon(tmp_path / "addon"), "-o", "a.tar.gz")
    run("bundle", "sign", "a.tar.gz")
    content = bytearray((tmp_path / "a.tar.gz").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(content)
    refused(run("bundle", "verify", "a.tar.gz"), "the signature is for digest")


def test_verify_trusts_what_it_is_told_to(run: Run, tmp_path: Path) -> None:
    run("bundle", "build", made_addon(tmp_path / "addon"), "-o", "a.tar.gz")
    public = run("keys", "new", "--out", "mine", "--name", "ada").stdout.strip()
    other = run("keys", "new", "--out", "mine", "--name", "bob").stdout.strip()
    refused(run("bundle", "verify", "a.tar.gz"), "no key is trusted")
    refused(run("bundle", "verify", "a.tar.gz", "--key", public), "not signed")
    assert run("bundle", "sign", "a.tar.gz", "--key", "mine/ada.key", "--key-id", "k1", "-o", "a.sig").returncode == 0
    refused(run("bundle", "verify", "a.tar.gz", "--signature", "a.sig", "--key", other), "no trusted key")
    shown = json.loads(
        run(
            "bundle", "verify", "a.tar.gz", "--signature", "a.sig", "--key", other, "--key", "mine/ada.pub", "--json"
        ).stdout
    )
    assert (shown["signer"], shown["key_id"], shown["key"]) == (public, "k1", "tickets")
    by_settings = run("bundle", "verify", "a.tar.gz", "--signature", "a.sig", env={"MARKETPLACE_PUBKEYS": public})
    assert by_settings.returncode == 0
    unsigned = run("bundle", "verify", "a.tar.gz", env={"ALLOW_UNSIGNED_BUNDLES": "true"})
    assert (unsigned.returncode, "needs none here" in unsigned.stdout) == (0, True)


def test_a_broken_setting_is_a_usage_error_that_names_it(run: Run, tmp_path: Path) -> None:
    run("bundle", "build", made_addon(tmp_path / "addon"), "-o", "a.tar.gz")
    refused(run("bundle", "verify", "a.tar.gz", env={"MARKETPLACE_PUBKEYS": "abc"}), "trusted key 1", code=2)


def test_inspect_shows_what_is_in_a_bundle(run: Run, tmp_path: Path) -> None:
    run("bundle", "build", made_addon(tmp_path / "addon"), "-o", "a.tar.gz")
    text = run("bundle", "inspect", "a.tar.gz").stdout
    for word in ("tickets 1.0.0  Tickets", "v2 Addon", "0002  more", "frontend/remoteEntry.js", "3 columns"):
        assert word in text
    shown = json.loads(run("bundle", "inspect", "a.tar.gz", "--json").stdout)
    assert (shown["key"], shown["models"][0]["columns"]) == ("tickets", ["title", "status", "amount"])
    assert [item["path"] for item in shown["files"]] == list(read_bundle((tmp_path / "a.tar.gz").read_bytes()).files)


def test_names_in_a_bundle_cannot_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon", v2(name="\x1b[2J\x1b]0;owned\x07\u202egnp"))
    run("bundle", "build", folder, "-o", "a.tar.gz")
    text = run("bundle", "inspect", "a.tar.gz").stdout
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text


def test_keys_are_kept_private_and_not_overwritten(run: Run, tmp_path: Path) -> None:
    made = run("keys", "new")
    private = tmp_path / "home" / "keys" / "dev.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().strip() not in made.stdout + made.stderr
    refused(run("keys", "new"), "exists already")
    assert bytes(read_private_key(private).verify_key).hex() == made.stdout.strip()
    replaced = run("keys", "new", "--force", "--json")
    assert json.loads(replaced.stdout)["public_key"] != made.stdout.strip()


def test_keys_show_prints_the_public_half(run: Run, tmp_path: Path) -> None:
    public = run("keys", "new", "--out", "k", "--name", "a").stdout
    assert run("keys", "show", "k/a.key").stdout == run("keys", "show", "k/a.pub").stdout == public
    assert json.loads(run("keys", "show", "k/a.key", "--json").stdout)["kind"] == "private"
    (tmp_path / "bad.key").write_text("hunter2")
    done = run("keys", "show", "bad.key")
    refused(done, "64 hex digits")
    assert "hunter2" not in done.stderr


def test_signing_without_a_key_says_how_to_make_one(run: Run, tmp_path: Path) -> None:
    run("bundle", "build", made_addon(tmp_path / "addon"), "-o", "a.tar.gz")
    refused(run("bundle", "sign", "a.tar.gz"), "metacore keys new")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["bundle", "nonsense"],
        ["bundle", "build"],
        ["bundle", "build", "nowhere"],
        ["bundle", "inspect", "nowhere.tar.gz"],
        ["bundle", "inspect", "--bogus", "x"],
        ["keys", "new", "--name", "../x"],
    ],
)
def test_calling_it_wrongly_ends_with_2(run: Run, arguments: list[str]) -> None:
    refused(run(*arguments), code=2)


def test_a_file_that_cannot_be_written_is_a_message(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon")
    (tmp_path / "file").write_text("x")
    refused(run("bundle", "build", folder, "-o", "file/a.tar.gz"), "cannot be written")


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout.startswith("metacore 0.")
    shown = run("--help")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("bundle", "keys", "Exit codes"))
    assert "sign" in run("bundle", "--help").stdout


@pytest.mark.parametrize("name", [name for name, (module, _, _) in LAZY.items() if find_spec(module) is not None])
def test_every_command_of_the_table_is_there(run: Run, name: str) -> None:
    shown = run(name, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"Usage: metacore {name}" in shown.stdout


def test_help_loads_no_room(tmp_path: Path) -> None:
    script = (
        "import sys; from metacore.cli import main; code = main(['--help'])\n"
        "heavy = {'pydantic', 'sqlalchemy', 'fastapi', 'pglast', 'asyncpg', 'nacl'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_terminal_without_utf8_gets_escapes_not_a_crash(run: Run, tmp_path: Path) -> None:
    folder = made_addon(tmp_path / "addon", v2(name="Café"))
    run("bundle", "build", folder, "-o", "a.tar.gz")
    done = run("bundle", "inspect", "a.tar.gz", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, "Caf\\xe9" in done.stdout) == (0, True)


def test_errors_become_exit_codes_in_one_place() -> None:
    from metacore import errors
    from metacore.cli.main import exit_code

    assert exit_code(errors.ManifestInvalid("x")) == exit_code(errors.Conflict("x")) == exit_code(OSError()) == 1
    assert exit_code(errors.Misconfigured("x")) == 2
    assert exit_code(errors.Unavailable("x")) == exit_code(ConnectionRefusedError()) == exit_code(TimeoutError()) == 3
