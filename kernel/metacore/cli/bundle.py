"""`metacore bundle`: from a folder to a signed bundle, and back to what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metacore.bundle.archive import MAX_BYTES
from metacore.bundle.keyfile import PUBLIC_SUFFIX, read_private_key, read_public_key
from metacore.bundle.read import Bundle, digest_of, read_bundle
from metacore.bundle.signature import MAX_SIGNATURE_BYTES, Signature, TrustedKeys, sign, verify
from metacore.bundle.write import write_bundle
from metacore.cli import output, places, scaffold
from metacore.cli.environment import read_settings
from metacore.errors import NotFound, Refused

if TYPE_CHECKING:
    from metacore.cli.examine import Examination

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make, check, sign and look into bundles.")

SIGNATURE_SUFFIX = ".sig.json"
BundleFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A bundle, a tar.gz.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder to make; it may exist.")],
    key: Annotated[str, typer.Option(help="Key of the addon; default: made from the folder's name.")] = "",
    v2: Annotated[bool, typer.Option("--v2", help="Write a version 2 manifest.")] = False,
    lang: Annotated[scaffold.Language, typer.Option(help="Language of its code.")] = scaffold.Language.NONE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Start an addon: a model, navigation, a setting, a README, and with --lang code that an action runs."""
    files = scaffold.scaffold(key or scaffold.key_from(folder.absolute().name), v2=v2, language=lang)
    taken = [name for name in files if (folder / name).exists()]
    if taken and not force:
        raise Refused(f"{folder / taken[0]} exists already; nothing was written", code="exists")
    for name, content in files.items():
        output.write_file(folder / name, content)
        output.say(str(folder / name))
    output.note(f"next: metacore bundle build {folder}")


@app.command()
def validate(
    path: Annotated[Path, typer.Argument(exists=True, help="A folder, a manifest.json or a bundle.")],
    as_json: AsJson = False,
) -> None:
    """Check an addon and print every problem, each with its place."""
    from metacore.cli.examine import examine

    found = examine(path)
    if as_json:
        output.show_json(found.as_json())
        raise typer.Exit(0 if found.valid else 1)
    for warning in found.warnings:
        output.note(f"{output.paint('warning', '33')}: {warning.field}: {warning.message}")
    if not found.valid:
        _refuse(path, found)
    if found.manifest is not None:
        output.say(f"{found.manifest.key} {found.manifest.version} is valid ({found.manifest.api})")


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with a manifest.json.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", dir_okay=False, help="Default: ../dist/<key>-<version>.tar.gz.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compile the code of a folder, if it has some, and pack it into a bundle; the same files give the same bytes."""
    from metacore.cli.addon_code import compile_code, language_of
    from metacore.cli.examine import examine

    if language := language_of(folder):
        output.note(f"compiling {language} code")
        compile_code(folder)
    found = examine(folder)
    if not found.valid or found.manifest is None or found.files is None:
        _refuse(folder, found)
        return
    content = write_bundle(found.files)
    target = out or folder.resolve().parent / "dist" / f"{found.manifest.key}-{found.manifest.version}.tar.gz"
    output.write_file(target, content)
    result = {"file": str(target), "digest": digest_of(content), "bytes": len(content), "files": len(found.files)}
    if as_json:
        output.show_json(result)
    else:
        output.say(f"{target}\nsha256 {result['digest']} ({len(content)} bytes, {len(found.files)} files)")


@app.command("sign")
def sign_(
    file: BundleFile,
    key: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Private key file; default: the development key.")
    ] = None,
    key_id: Annotated[str, typer.Option(help="Name of the key, for people.")] = "",
    developer_id: Annotated[str, typer.Option(help="Who signs, for machines.")] = "",
    developer_name: Annotated[str, typer.Option(help="Who signs, for people.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", dir_okay=False, help="Default: FILE.sig.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle; the signature goes into a file beside it."""
    content = output.read_file(file, MAX_BYTES)
    read_bundle(content)
    private = key or places.default_key_path()
    try:
        signing = read_private_key(private)
    except NotFound as error:
        raise NotFound(f"{error.message}: make one with `metacore keys new`", code="no_key") from None
    made = sign(content, signing, key_id=key_id, developer_id=developer_id, developer_name=developer_name)
    target = out or signature_path(file)
    output.write_file(target, json.dumps(made.as_json(), indent=2, ensure_ascii=False).encode() + b"\n")
    public = signing.verify_key.encode().hex()
    if as_json:
        output.show_json({"file": str(target), "digest": made.digest, "public_key": public})
    else:
        output.say(f"{target}\nsigned by {public}")


@app.command("verify")
def verify_(
    file: BundleFile,
    signature: Annotated[Path | None, typer.Option(dir_okay=False, help="Default: FILE.sig.json.")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Trusted public key: hex or a .pub file. Default: dev.pub and the settings."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a trusted key signed exactly this bundle, and that the bundle can be read."""
    content = output.read_file(file, MAX_BYTES)
    place = signature or signature_path(file)
    spoken: Signature | None = None
    if signature is not None or place.exists():
        spoken = Signature.from_json(output.read_file(place, MAX_SIGNATURE_BYTES))
    verified = verify(content, spoken, trusted_keys(key or []))
    bundle = read_bundle(content)
    if as_json:
        output.show_json(
            {
                "verified": True,
                "digest": verified.digest,
                "signer": verified.signer or None,
                "key_id": verified.key_id or None,
                "developer_name": verified.developer_name or None,
                "key": bundle.manifest.key,
                "version": bundle.manifest.version,
            }
        )
    elif verified.signer:
        name = f" ({verified.developer_name})" if verified.developer_name else ""
        output.say(f"{bundle.manifest.key} {bundle.manifest.version} is signed by {verified.signer}{name}")
    else:
        output.say(f"{bundle.manifest.key} {bundle.manifest.version} has no trusted signature and needs none here")


@app.command()
def inspect(file: BundleFile, as_json: AsJson = False) -> None:
    """Show what is in a bundle: identity, models, capabilities, migrations, files."""
    bundle = read_bundle(output.read_file(file, MAX_BYTES))
    if as_json:
        output.show_json(_described(bundle))
    else:
        _show(bundle)


def signature_path(file: Path) -> Path:
    return file.with_name(file.name + SIGNATURE_SUFFIX)


def trusted_keys(given: list[str]) -> TrustedKeys:
    """The keys named on the command line; without any, the development key and those of the settings."""
    if given:
        return TrustedKeys.from_hex([read_public_key(text) for text in given])
    settings = read_settings()
    keys = list(settings.all_trusted_keys)
    own = places.default_key_path().with_suffix(PUBLIC_SUFFIX)
    if own.exists():
        keys.append(read_public_key(str(own)))
    return TrustedKeys.from_hex(keys, allow_unsigned=settings.allow_unsigned_bundles)


def _refuse(path: Path, found: Examination) -> None:
    count = len(found.problems)
    output.show_failure(f"{path}: {count} problem{'s' if count != 1 else ''}")
    output.show_problems(found.problems)
    raise typer.Exit(1)


def _described(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "key": manifest.key,
        "name": manifest.name,
        "version": manifest.version,
        "api": manifest.api,
        "kind": manifest.kind,
        "description": manifest.description,
        "author": manifest.author,
        "digest": bundle.digest,
        "kernel": manifest.kernel,
        "requires": [requirement.model_dump() for requirement in manifest.requires],
        "isolation": manifest.isolation.value,
        "models": [
            {"key": model.key, "table": model.table, "columns": [column.name for column in model.columns]}
            for model in manifest.models
        ],
        "actions": [f"{action.model}.{action.key}" for action in manifest.actions],
        "capabilities": [capability.model_dump() for capability in manifest.capabilities],
        "settings": [setting.key for setting in manifest.settings],
        "migrations": [
            {"version": item.version, "path": item.path, "sha256": item.checksum} for item in bundle.migrations
        ],
        "files": [
            {"path": path, "bytes": len(data), "sha256": bundle.checksums[path]} for path, data in bundle.files.items()
        ],
    }


def _show(bundle: Bundle) -> None:
    manifest = bundle.manifest
    output.say(f"{manifest.key} {manifest.version}  {manifest.name}")
    output.show_rows(
        [
            ("manifest", f"{manifest.api} {manifest.kind}, kernel {manifest.kernel}"),
            ("digest", bundle.digest),
            ("isolation", manifest.isolation.value),
            *([("author", manifest.author)] if manifest.author else []),
            *((f"requires {item.key}", item.version) for item in manifest.requires),
        ]
    )
    _section("models", [(item.key, item.table, f"{len(item.columns)} columns") for item in manifest.models])
    _section("actions", [(f"{item.model}.{item.key}", item.trigger or "webhook") for item in manifest.actions])
    _section("capabilities", [(item.kind, item.target, item.reason) for item in manifest.capabilities])
    _section("migrations", [(item.version, item.name, item.checksum[:12]) for item in bundle.migrations])
    _section(
        "files", [(path, f"{len(data)} bytes", bundle.checksums[path][:12]) for path, data in bundle.files.items()]
    )


def _section(title: str, rows: list[tuple[str, ...]]) -> None:
    if rows:
        output.say(f"{title}:")
        output.show_rows(rows)
