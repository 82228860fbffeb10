"""The secrets of an Addon's installations in a file beside its status, for its owner only."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from metacore.errors import Unavailable
from metacore_operator.folder.store import SECRETS, file_of, write_document
from metacore_operator.resources.addon import Addon
from metacore_operator.steps.context import KeptSecrets, SecretStore


class FolderSecrets(SecretStore):
    """`folder` is that of the `Store`, which forgets the file together with the Addon."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self, addon: Addon) -> KeptSecrets:
        path = file_of(self._folder, addon, SECRETS)
        try:
            document = json.loads(path.read_bytes())
            values = {uuid.UUID(name): bytes.fromhex(value) for name, value in document["secrets"].items()}
            return KeptSecrets(values, str(document["rotation"]))
        except FileNotFoundError:
            return KeptSecrets()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unavailable(f"{path.name} cannot be read: {type(error).__name__}") from error

    async def write(self, addon: Addon, kept: KeptSecrets) -> None:
        path = file_of(self._folder, addon, SECRETS)
        values = {str(organization): value.hex() for organization, value in kept.values.items()}
        try:
            write_document(path, {"rotation": kept.rotation, "secrets": values})
        except OSError as error:
            raise Unavailable(f"{path.name} cannot be written: {error.strerror}") from error
