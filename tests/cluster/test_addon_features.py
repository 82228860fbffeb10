"""With the real image and the rights that the chart gives: secrets, settings, dependencies, approval, drift."""

from __future__ import annotations

import base64
import json
import re

from tests.cluster.addon_world import AddonWorld


def test_settings_from_a_secret_and_the_secrets_of_installations(world: AddonWorld) -> None:
    settings = [{"key": "greeting", "type": "string"}, {"key": "token", "type": "string", "secret": True}]
    world.bundle("one", settings=settings)
    secret = {"name": "credentials", "labels": {"metacore.dev/allow": world.key}}
    world.apply({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"token": "s3cret"}})
    world.declare("one", settingsFrom=[{"secretRef": {"name": "credentials"}}], settings={"greeting": "hi"})
    world.until("condition=Ready")

    found = json.loads(world.kubectl("get", "secret", f"{world.key}-installations", "-o", "json"))
    assert [owner["name"] for owner in found["metadata"]["ownerReferences"]] == [world.key]
    (value,) = found["data"].values()
    assert re.fullmatch("[0-9a-f]{64}", base64.b64decode(value).decode())
    assert "s3cret" not in world.kubectl("get", "addon", world.key, "-o", "json")

    world.kubectl("annotate", "addon", world.key, "metacore.dev/rotate-secrets=one")
    world.until("jsonpath={.status.lastHandledRotateSecrets}=one")
    again = json.loads(world.kubectl("get", "secret", f"{world.key}-installations", "-o", "json"))
    assert again["data"].keys() == found["data"].keys() and again["data"] != found["data"]

    world.delete()
    world.kubectl("wait", "--for=delete", f"secret/{world.key}-installations", "--timeout=60s")


def test_an_addon_waits_for_another_and_holds_it(world: AddonWorld) -> None:
    needy = f"{world.key}n"
    world.bundle("two", allow=needy, key=needy, compatibility={"requires": [{"key": world.key, "version": ">=1.0.0"}]})
    world.declare("two", needy)
    world.until('jsonpath={.status.conditions[?(@.type=="Ready")].reason}=DependencyPending', needy)
    assert f"requires addon '{world.key}' >=1.0.0, which is not installed" in world.condition(name=needy)["message"]
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready", needy)

    world.kubectl("delete", "addon", world.key, "--wait=false")
    world.until('jsonpath={.status.conditions[?(@.type=="Ready")].reason}=NeededByOthers')
    assert world.events().count("NeededByOthers") == 1
    world.delete(needy)
    world.kubectl("wait", "--for=delete", f"addon/{world.key}", "--timeout=90s")


def test_an_upgrade_that_asks_for_more_waits_for_approval(world: AddonWorld) -> None:
    asks = [{"kind": "http:fetch", "target": "api.example.com", "reason": "rates"}]
    world.bundle("one")
    world.declare("one")
    world.until("condition=Ready")
    world.bundle("two", version="1.1.0", capabilities=asks)
    world.declare("two")
    world.until("condition=CapabilitiesAccepted=False")
    assert "http:fetch api.example.com" in world.condition("CapabilitiesAccepted")["message"]
    assert world.status()["version"] == "1.0.0" and world.request("GET")[0] == 200

    listed = [{"kind": "http:fetch", "target": "*.example.com"}]
    world.declare("two", capabilities={"list": listed})
    world.until("jsonpath={.status.version}=1.1.0")
    world.until("condition=Ready")
