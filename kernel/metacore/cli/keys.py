"""`metacore keys`: Ed25519 keys for signing bundles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from metacore.bundle.keyfile import PUBLIC_SUFFIX, new_key, read_private_key, read_public_key, write_key_pair
from metacore.cli import output, places

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make and show signing keys.")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@app.command()
def new(
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder; default: the keys folder of this user.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the files: NAME.key and NAME.pub.")] = "dev",
    force: Annotated[bool, typer.Option("--force", help="Replace a key that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a key pair and print the public key. The private key goes into a file that only you can read."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, _ . and - only", param_hint="--name")
    private = (out or places.default_key_path().parent) / f"{name}.key"
    key = new_key()
    public = write_key_pair(private, key, replace=force)
    text = key.verify_key.encode().hex()
    if as_json:
        output.show_json({"private_key_file": str(private), "public_key_file": str(public), "public_key": text})
        return
    output.note(f"private key: {private} (whoever has it can sign as you)")
    output.note(f"public key:  {public}")
    output.say(text)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .key or a .pub file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the public key of a key file."""
    if file.suffix == PUBLIC_SUFFIX:
        text, kind = read_public_key(str(file)), "public"
    else:
        text, kind = read_private_key(file).verify_key.encode().hex(), "private"
    if as_json:
        output.show_json({"file": str(file), "kind": kind, "public_key": text})
    else:
        output.say(text)
