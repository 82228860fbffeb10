"""What `metacore enforce` prints."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metacore.capabilities.standing import MIXED, Standing
from metacore.capabilities.suggest import Suggestion, refused_until_granted
from metacore.capabilities.violations import ViolationSum
from metacore.cli import output
from metacore.cli.manifest_patch import as_entries
from metacore.manifest.model import Capability

COLOURS = {"shadow": "33", "enforce": "32", MIXED: "31;1", "": "31;1"}


@dataclass(frozen=True, slots=True)
class ReportLine:
    """`granted_now`: it was granted since, so that it would pass today."""

    found: ViolationSum
    granted_now: bool

    @property
    def outcome(self) -> str:
        if self.granted_now:
            return "granted since"
        if self.found.forbidden:
            return "refused until granted" if refused_until_granted(self.found) else "refused in both modes"
        if not self.found.refused:
            return "would be refused"
        return "refused" if not self.found.shadow else f"refused {self.found.refused} of {self.found.count}"


def status_json(standing: Standing, sums: Sequence[ViolationSum]) -> dict[str, Any]:
    return {
        "mode": standing.mode,
        "asked": {"mode": standing.asked.mode.value, "by": standing.asked.by, "at": _instant(standing.asked.at)}
        if standing.asked is not None
        else None,
        "kernels": [
            {
                "pod": kernel.pod,
                "mode": kernel.mode,
                "build": kernel.build,
                "revision": kernel.revision,
                "silent_for": round(kernel.silent_for, 1),
            }
            for kernel in standing.kernels
        ],
        "addons": [
            {
                "key": addon.key,
                "version": addon.version,
                "mode": addon.own,
                "effective": standing.effective(addon),
                "fenced": addon.fenced,
                "violations_24h": _counts(addon.key, sums),
            }
            for addon in standing.addons
        ],
    }


def show_status(standing: Standing, sums: Sequence[ViolationSum]) -> None:
    kernels = len(standing.kernels)
    if not kernels:
        output.say(f"mode: {_mode('')}: no kernel is live")
    else:
        output.say(f"mode: {_mode(standing.mode)} in {kernels} live kernel{'s' * (kernels != 1)}")
    if standing.asked is not None:
        output.say(
            f"asked for by API: {standing.asked.mode.value}, by {standing.asked.by} at {_shown(standing.asked.at)}"
        )
    if kernels:
        output.say()
        rows = [("KERNEL", "MODE", "BUILD", "REVISION", "SEEN")]
        rows += [
            (kernel.pod, kernel.mode, kernel.build, str(kernel.revision), f"{kernel.silent_for:.0f} s ago")
            for kernel in standing.kernels
        ]
        output.show_rows(rows)
    output.say()
    if not standing.addons:
        output.say("no addon is installed")
        return
    table = [("ADDON", "VERSION", "MODE", "HELD IN", "PASSED 24H", "REFUSED 24H")]
    for addon in standing.addons:
        counts = _counts(addon.key, sums)
        held = "fenced" if addon.fenced else standing.effective(addon) or "-"
        table.append((addon.key, addon.version, addon.own, held, str(counts["allowed"]), str(counts["refused"])))
    output.show_rows(table)


def report_json(begin: datetime.datetime, lines: Sequence[ReportLine]) -> dict[str, Any]:
    return {
        "since": begin.isoformat(),
        "violations": [{**line.found.as_json(), "granted_now": line.granted_now} for line in lines],
    }


def show_report(since: str, lines: Sequence[ReportLine]) -> None:
    if not lines:
        output.say(f"nothing in {since}: no addon did what it was not granted")
        return
    rows = [("ADDON", "KIND", "TARGET", "COUNT", "ORGS", "ENFORCE", "LAST")]
    rows += [
        (
            line.found.addon_key,
            line.found.kind,
            line.found.target,
            str(line.found.count),
            str(line.found.organizations),
            line.outcome,
            _shown(line.found.last_at),
        )
        for line in lines
    ]
    output.show_rows(rows, indent="")
    unsettled = sorted({line.found.addon_key for line in lines if not line.granted_now})
    output.say()
    if unsettled:
        output.say(
            f"what would make them clean: metacore enforce suggest {unsettled[0] if len(unsettled) == 1 else 'ADDON'}"
        )
    else:
        output.say("all of it was granted since: enforce would refuse none of it today")


def show_suggestion(addon: str, since: str, found: Suggestion, place: Path | None) -> None:
    if found.clean:
        output.say(f"{addon} is clean: nothing in {since} that it is not granted today")
        return
    if found.add:
        where = f"added to {place}" if place is not None else 'add to "capabilities" in manifest.json'
        output.say(f"{output.paint(addon, '1')}: {where}:")
        for entry in as_entries(found.add):
            output.say(f"  {json.dumps(entry, ensure_ascii=False)}")
        output.say()
        output.say("Say in each why it is needed, raise the version, build and sign the bundle, and install it.")
        output.say("An upgrade that asks for more waits until that is approved, in the Addon's spec.capabilities.list:")
        _show_list(found.add)
    if found.accept:
        where = f"in {place} already" if place is not None else "declared by the installed bundle"
        output.say(f"{where} and not granted: install that, and approve it in the Addon's spec.capabilities.list:")
        _show_list(found.accept)
    if found.left_out:
        output.say(output.paint("cannot be granted, the addon has to change:", "33"))
        output.show_rows([(item.kind, item.target, f"{item.count}x", item.why) for item in found.left_out])


def _show_list(capabilities: Sequence[Capability]) -> None:
    for item in capabilities:
        output.say(f"  - kind: {json.dumps(item.kind)}\n    target: {json.dumps(item.target)}")


def _counts(addon_key: str, sums: Sequence[ViolationSum]) -> dict[str, int]:
    mine = [item.as_json() for item in sums if item.addon_key == addon_key]
    return {name: sum(item[name] for item in mine) for name in ("allowed", "refused")}


def _mode(mode: str) -> str:
    return output.paint(mode or "unknown", COLOURS.get(mode, "0"))


def _shown(at: datetime.datetime | None) -> str:
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at is not None else "-"


def _instant(at: datetime.datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
