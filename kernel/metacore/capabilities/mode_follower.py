"""Keeps a process's mode at what the file and the database say, while it runs."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from metacore.capabilities.access import Mode
from metacore.capabilities.modes import Asked, ModeSource, Wishes, mode_from_words
from metacore.db.database import Database
from metacore.errors import Conflict
from metacore.logs import get_logger
from metacore.orm.capabilities import ModeRow

log = get_logger(__name__)

MODE_ROW: Final = 1
READ_SECONDS: Final = 5.0
MOST_FILE_BYTES: Final = 64


class ModeFollower:
    """`follow` is called at the start and at every heartbeat, `ask` when somebody wants another mode.

    `apply` hears the mode in force whenever it was read. `fixed` means that `configured` is the pod's own mode. A file
    that is missing, empty or without a known word changes nothing: what was last read from it stays.
    """

    def __init__(
        self,
        database: Database,
        *,
        configured: Mode,
        apply: Callable[[Mode], None],
        fixed: bool = False,
        file: str = "",
    ) -> None:
        self.wishes = Wishes(configured, fixed)
        self._database = database
        self._apply = apply
        self._file = Path(file) if file and not fixed else None
        self._complained: set[str] = set()
        # What was read before a wish was written must not be applied after it.
        self._changing = asyncio.Lock()

    @property
    def mode(self) -> Mode:
        return self.wishes.mode

    @property
    def refusal(self) -> str:
        """Why the mode cannot be changed by API right now; '' when it can."""
        match self.wishes.source:
            case ModeSource.CLUSTER:
                return (
                    "the mode of this kernel is the cluster's: set METACORE_ENFORCE in the ConfigMap <release>-config,"
                    " and the operator rolls it out"
                )
            case ModeSource.FILE:
                # Where the file lies is no tenant's business.
                return "the mode of this kernel follows a file, which the setting enforce_file names: change it there"
            case _:
                return ""

    async def follow(self) -> None:
        """Read everybody's wish and apply what comes of it. What cannot be read stays as it was."""
        if self.wishes.fixed:
            return
        async with self._changing:
            file = await asyncio.to_thread(self._read_file) if self._file is not None else None
            asked = await self._read_asked()
            self._hold(replace(self.wishes, file=file, asked=asked))

    async def ask(self, mode: Mode | None, by: str) -> None:
        """Make `mode` the wish of this installation, in every kernel within a heartbeat and in this one at once. None
        takes the wish back. `by` is who asks, an e-mail.

        Raises:
            Conflict: the mode is not the API's to change; the message says whose it is.
        """
        async with self._changing:
            if self.refusal:
                raise Conflict(self.refusal, code="mode_fixed")
            now = datetime.datetime.now(datetime.UTC)
            values = {"mode": mode.value if mode is not None else "", "changed_by": by[:320], "changed_at": now}
            async with self._database.transaction(None) as connection:
                await connection.execute(sa.update(ModeRow).where(ModeRow.id == MODE_ROW).values(**values))
            log.warning("enforcer.mode_asked", category="enforcer", mode=values["mode"] or "withdrawn", by=by)
            self._hold(replace(self.wishes, asked=Asked(mode, by, now) if mode is not None else None))

    def _hold(self, wishes: Wishes) -> None:
        before, self.wishes = self.wishes, wishes
        if wishes.mode is not before.mode:
            log.warning(
                "enforcer.mode_changed",
                category="enforcer",
                mode=wishes.mode.value,
                before=before.mode.value,
                source=wishes.source.value,
            )
        elif wishes.source is not before.source:
            log.info("enforcer.mode_source", category="enforcer", mode=wishes.mode.value, source=wishes.source.value)
        self._apply(wishes.mode)

    def _read_file(self) -> Mode | None:
        if self._file is None:
            return None
        try:
            with self._file.open("rb") as file:
                text = file.read(MOST_FILE_BYTES + 1).decode("utf-8", "replace")
        except OSError as error:
            self._complain("file", f"{self._file}: {error.strerror}")
            return self.wishes.file
        mode = mode_from_words(text) if len(text) <= MOST_FILE_BYTES else None
        if mode is None:
            if text.strip():
                self._complain("file", f"{self._file}: holds none of 1, true, yes, 0, false, no")
            return self.wishes.file
        self._complained.discard("file")
        return mode

    async def _read_asked(self) -> Asked | None:
        try:
            async with asyncio.timeout(READ_SECONDS), self._database.transaction(None) as connection:
                row = (await connection.execute(sa.select(ModeRow).where(ModeRow.id == MODE_ROW))).one_or_none()
        except Exception as error:
            self._complain("database", f"{type(error).__name__}: {error}"[:300])
            return self.wishes.asked
        self._complained.discard("database")
        mode = mode_from_words(row.mode) if row is not None else None
        return Asked(mode, row.changed_by, row.changed_at) if row is not None and mode is not None else None

    def _complain(self, about: str, problem: str) -> None:
        if about not in self._complained:
            self._complained.add(about)
            log.warning("enforcer.mode_unread", category="enforcer", source=about, error=problem)
