"""Which organizations exist for the Addons of a namespace."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import cast

import pytest

from metacore_operator.cluster.tenancy import TenantsOf
from metacore_operator.settings import Tenancy
from metacore_operator.steps.state import State, Tenant

ACME, GLOBEX = (Tenant(uuid.uuid4(), name, {}) for name in ("Acme", "Globex"))


class Known:
    """As much of a State as is asked here."""

    async def tenants(self) -> Sequence[Tenant]:
        return [ACME, GLOBEX]


def rule(namespaces: Sequence[str], organizations: Sequence[str]) -> Tenancy:
    return Tenancy(namespaces=tuple(namespaces), organizations=tuple(organizations))


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([], []),
        ([rule(["team-a"], ["Acme"])], [ACME]),
        ([rule(["team-a"], [str(GLOBEX.id)])], [GLOBEX]),
        ([rule(["team-a"], ["*"])], [ACME, GLOBEX]),
        ([rule(["*"], ["Acme"])], [ACME]),
        ([rule(["team-*"], ["Acme"])], [ACME]),
        ([rule(["team-*"], ["Acme"]), rule(["*-a"], ["Globex"])], [ACME, GLOBEX]),
        ([rule(["team"], ["*"])], []),
        ([rule(["team-b", "steam-*"], ["*"])], []),
        ([rule(["TEAM-*"], ["*"])], []),
    ],
)
async def test_an_addon_of_team_a_sees(rules: Sequence[Tenancy], found: Sequence[Tenant]) -> None:
    assert list(await TenantsOf(cast(State, Known()), "team-a", rules).tenants()) == list(found)
