"""Which tenants an Addon means."""

from __future__ import annotations

import uuid
from typing import Any

from metacore_operator.resources.spec import Organizations
from metacore_operator.steps.organizations import Chosen, choose
from metacore_operator.steps.state import Tenant


def tenant(name: str, **labels: str) -> Tenant:
    identifier = uuid.uuid4()
    return Tenant(identifier, name, {"id": str(identifier), "name": name, **labels})


ACME, GLOBEX, TWIN, OTHER_TWIN = tenant("Acme", tier="gold"), tenant("Globex"), tenant("Twin"), tenant("Twin")
EVERYBODY = (ACME, GLOBEX, TWIN, OTHER_TWIN)


def chosen(**wanted: Any) -> Chosen:
    return choose(Organizations.model_validate(wanted), EVERYBODY)


def names(choice: Chosen) -> list[str]:
    return [known.name for known in EVERYBODY if known.id in choice.organizations]


def test_all_means_everybody() -> None:
    assert len(chosen(all=True).organizations) == 4


def test_names_and_ids_are_both_understood_and_count_once() -> None:
    choice = chosen(names=["Globex", str(ACME.id).upper(), "Acme"])

    assert choice == Chosen((GLOBEX.id, ACME.id))


def test_unknown_names_are_told_and_the_known_ones_still_count() -> None:
    choice = chosen(names=["Acme", "Initech"])

    assert choice.organizations == (ACME.id,)
    assert choice.missing == ("Initech",)


def test_a_name_of_two_tenants_means_neither() -> None:
    choice = chosen(names=["Twin"])

    assert choice.organizations == ()
    assert choice.ambiguous == ("Twin",)
    assert chosen(names=[str(TWIN.id)]).organizations == (TWIN.id,)


def test_selectors_work_as_in_kubernetes() -> None:
    def select(*expressions: dict[str, Any], **labels: str) -> list[str]:
        return names(chosen(selector={"matchLabels": labels, "matchExpressions": list(expressions)}))

    assert select(tier="gold") == ["Acme"]
    assert select(tier="gold", name="Globex") == []
    assert select({"key": "name", "operator": "In", "values": ["Acme", "Globex"]}) == ["Acme", "Globex"]
    assert select({"key": "name", "operator": "NotIn", "values": ["Twin"]}) == ["Acme", "Globex"]
    assert select({"key": "tier", "operator": "NotIn", "values": ["gold"]}) == ["Globex", "Twin", "Twin"]
    assert select({"key": "tier", "operator": "Exists"}) == ["Acme"]
    assert select({"key": "tier", "operator": "DoesNotExist"}) == ["Globex", "Twin", "Twin"]
