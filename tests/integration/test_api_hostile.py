"""Everything that a bad client can send to every route: a clear 4xx in the envelope, never a failure of ours."""

from __future__ import annotations

import itertools
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.applications import PASSWORD, SECRET, register, started
from tests.conftest import DatabaseUrls
from tests.control_plane import Headers, control_plane
from tests.hostile import BODIES, TEXTS, VALUES, Reply, ask, check, deep
from tests.tickets import signed
from tests.zoo import COLUMNS, MODEL, SETTINGS, Creature, zoo_bundle

from metacore import App, AppConfig

ROWS = f"/api/dynamic/{MODEL}"
JSON = {"Content-Type": "application/json"}


@dataclass
class Target:
    """A served kernel with a row of Ada's and one of Eve's."""

    web: FastAPI
    ada: Headers
    eve: Headers
    row: str
    foreign: str
    seen: int = 0

    async def ask(self, method: str, target: str, headers: Headers | None = None, body: bytes = b"") -> Reply:
        """Ask as Ada, and look at whatever comes back."""
        reply = await ask(self.web, method, target, headers=self.ada | JSON if headers is None else headers, body=body)
        check(reply, (method, target, body[:200]))
        self.seen += 1
        return reply

    async def foreign_rows(self) -> Any:
        return (await self.ask("GET", ROWS, self.eve)).json()["data"]


@pytest.fixture(params=["postgresql", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseUrls | Path:
    if request.param == "sqlite":
        return tmp_path
    urls: DatabaseUrls = request.getfixturevalue("database_urls")
    return urls


@pytest.fixture
async def target(place: DatabaseUrls | Path) -> AsyncIterator[Target]:
    async with on_sqlite(place) if isinstance(place, Path) else on_postgres(place) as made:
        for headers in (made.ada, made.eve):
            created = await made.ask("POST", ROWS, headers | JSON, b'{"name": "Rex", "legs": 4}')
            assert created.status == 201
            made.row, made.foreign = made.foreign, created.json()["data"]["id"]
        yield made


@asynccontextmanager
async def on_postgres(urls: DatabaseUrls) -> AsyncIterator[Target]:
    async with control_plane(urls, request_wait=0.0, mode_organizations=("*",)) as plane:
        for headers in (plane.ada, plane.eve):
            await plane.install(headers, *signed(zoo_bundle()), key="zoo")
        assert await plane.worker.run_pending() == 2
        await plane.app.loader.load()
        yield Target(plane.web, plane.ada, plane.eve, "", "")


@asynccontextmanager
async def on_sqlite(folder: Path) -> AsyncIterator[Target]:
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    config = AppConfig(
        database=f"sqlite:///{folder / 'zoo.db'}", jwt_secret=SECRET, request_wait=0.0, mode_organizations=("*",)
    )
    App(config).register_model(MODEL, lambda: Creature).mount(web)
    async with started(web) as client:
        ada, eve = await register(client, "ada@example.com"), await register(client, "eve@example.com")
        yield Target(web, ada, eve, "", "")


PLACES = {"model": MODEL, "key": "zoo", "role": "agent", "capability": "a.read", "path": "x.js", "name": "login.js"}
PARAMETERS = (
    *("page", "per_page", "sortBy", "order", "search", "q", "limit", "offset", "field", "filter_value", "format"),
    *("columns", "count", "cursor", "drop", "v", "token", "f_name", "f_legs", "f_born", "f_facts", "f_nothing"),
)
BROKEN = ("%00", "%ff", "%c3%28", "%", "%zz", "%2e%2e%2f", "%2F", "a%0d%0aX-Evil:%20y", "\xff\xfe")


def some(values: tuple[Any, ...], count: int, turn: Iterator[int]) -> list[Any]:
    """The next `count` of `values`: over many calls each comes up, without all of them at each place."""
    start = next(turn) * count
    return [values[(start + place) % len(values)] for place in range(count)]


async def operations(target: Target) -> list[tuple[str, str]]:
    """Method and path template of every route, the other spellings of row routes included."""
    document = (await target.ask("GET", "/openapi.json")).json()
    found = [
        (method.upper(), path) for path, item in document["paths"].items() for method in item if method != "parameters"
    ]
    spelled = [
        (method, path.replace("/api/dynamic/{model}", root))
        for method, path in found
        if path.startswith("/api/dynamic/{model}")
        for root in ("/api/data/{model}", "/api/data/{model}/me")
    ]
    more = [("GET", "/docs"), ("GET", "/docs/assets/{name}"), ("GET", "/openapi.json"), ("GET", "/api/ws")]
    # Logging out would end the session that everything here is asked with.
    return [operation for operation in (*found, *spelled, *more) if not operation[1].endswith("/logout")]


def filled(template: str, row: str, **given: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in given:
            return given[name]
        return PLACES.get(name, row)

    return re.sub(r"\{(\w+)(?::path)?\}", value, template)


async def test_no_path_query_or_header_breaks_a_route(target: Target) -> None:
    before = await target.foreign_rows()
    turn = itertools.count()
    for method, path in await operations(target):
        # What would succeed must not take away what the next one asks for.
        row = str(uuid.uuid4()) if method == "DELETE" else target.row
        base = filled(path, row)
        if "/docs/" not in path:
            for name in re.findall(r"\{(\w+)", path):
                for text in (*(quote(text[:3_000], safe="") for text in some(TEXTS, 9, turn)), *BROKEN[:-1]):
                    await target.ask(method, filled(path, row, **{name: text}), body=b"{}")
        if method == "GET":
            for name in PARAMETERS:
                for text in (*(quote(text, safe="") for text in some(TEXTS, 2, turn)), *some(BROKEN[:-1], 1, turn)):
                    await target.ask("GET", f"{base}?{name}={text}")
            await target.ask("GET", base + "?" + "&".join(f"page={n}" for n in range(300)))
            await target.ask("GET", base + "?f_name=a&f_name=b&sortBy=name&sortBy=id&page=1&page=2")
        for name in ("accept-language", "if-none-match", "x-request-id", "content-type", "range", "accept"):
            for text in ("\xff\xfe", "a" * 9_000, ",,,;;;q=,", "\x01"):
                await target.ask(method, base, {**target.ada, name: text}, b"{}")
        for other in ("HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "\x7f"):
            await target.ask(other, base)
    assert await target.foreign_rows() == before
    assert target.seen > 3_000


async def test_no_body_breaks_a_route(target: Target) -> None:
    before = await target.foreign_rows()
    turn = itertools.count()
    kinds = ("text/plain", "multipart/form-data; boundary=x", "text/csv", "application/json; charset=nonsense", "\xff")
    for method, path in await operations(target):
        if method == "GET":
            continue
        base = filled(path, str(uuid.uuid4()) if method == "DELETE" else target.row)
        for body in BODIES:
            await target.ask(method, base, body=body)
        for kind in kinds:
            for body in some(BODIES, 5, turn):
                await target.ask(method, base, {**target.ada, "Content-Type": kind}, body)
    assert await target.foreign_rows() == before


async def test_no_value_of_a_column_breaks_create_update_or_import(target: Target) -> None:
    values = (*VALUES, json.loads(deep(900)), json.loads(deep(200)))
    for column, value in itertools.product(COLUMNS, values):
        row = json.dumps({"name": "Rex", column: value}).encode()
        created = await target.ask("POST", ROWS, body=row)
        if created.status == 201:
            assert created.json()["data"]["organization_id"] != value
        await target.ask("PATCH", f"{ROWS}/{target.row}", body=json.dumps({column: value}).encode())
    turn = itertools.count()
    for column in COLUMNS:
        for value in some(values, 30, turn):
            rows = json.dumps([{"name": "Rex", column: value}, value]).encode()
            await target.ask("POST", f"{ROWS}/import", body=rows)
            await target.ask("POST", f"{ROWS}/import/validate", body=rows)
    listed = await target.ask("GET", f"{ROWS}?per_page=200")
    assert listed.status == 200
    mine = (await target.ask("GET", "/api/auth/me")).json()["data"]["user"]["organization_id"]
    assert {row["organization_id"] for row in listed.json()["data"]} == {mine}


async def test_no_filter_or_sort_breaks_a_list_or_reaches_the_database_as_sql(target: Target) -> None:
    before = await target.foreign_rows()
    turn = itertools.count()
    for column, operator in itertools.product(COLUMNS, ("", "eq:", "ilike:", "in:", "gte:", "lte:", "range:", "no:")):
        for text in (*some(TEXTS, 14, turn), "1|2", "|", "a|b", "1,2,", ",,,"):
            reply = await target.ask("GET", f"{ROWS}?f_{column}={operator}{quote(text[:3_000], safe='')}")
            assert reply.status in (200, 400)
    for column in (*COLUMNS, *(quote(text[:3_000], safe="") for text in TEXTS)):
        for path in (
            f"{ROWS}?sortBy={column}&order=asc",
            f"{ROWS}?sortBy={column}&cursor=",
            f"{ROWS}/facets?field={column}",
            f"/api/options/{MODEL}?field={column}",
            f"{ROWS}/export?format=csv&columns={column}",
        ):
            await target.ask("GET", path)
    assert await target.foreign_rows() == before


async def test_no_value_of_an_account_breaks_registration_login_or_users(target: Target) -> None:
    good = {"name": "Bob", "password": PASSWORD, "organization_name": "Bob Ltd", "refresh_token": "x", "role": "agent"}
    numbers = itertools.count()
    for path, names in (
        ("/api/auth/login", ("email", "password")),
        ("/api/auth/refresh", ("refresh_token",)),
        ("/api/auth/register", ("name", "email", "password", "organization_name")),
        ("/api/users", ("name", "email", "password", "role")),
    ):
        for name in names:
            # Hashing a password is slow on purpose, so values that pass are few here.
            for value in VALUES if path == "/api/auth/refresh" else VALUES[::2]:
                body = {key: f"b{next(numbers)}@example.com" if key == "email" else good[key] for key in names}
                await target.ask("POST", path, body=json.dumps({**body, name: value}).encode())


async def test_no_value_of_a_setting_breaks_its_installation(database_urls: DatabaseUrls) -> None:
    async with on_postgres(database_urls) as target:
        url = "/api/metacore/installations/zoo/settings"
        for key, value in itertools.product(SETTINGS, (*VALUES, json.loads(deep(900)))):
            await target.ask("PUT", url, body=json.dumps({key: value}).encode())
            reply = await target.ask("GET", url)
            assert (reply.status, reply.json()["data"]["values"].keys()) == (200, SETTINGS.keys() - {"secret"})


async def test_ids_of_another_organization_do_not_exist(target: Target) -> None:
    eve = (await target.ask("GET", "/api/auth/me", target.eve)).json()["data"]["user"]
    before = await target.foreign_rows()
    for method, path, body in (
        *((method, f"{root}/{target.foreign}", b'{"name": "Stolen"}') for method in ("GET", "PUT", "PATCH", "DELETE")
          for root in (ROWS, f"/api/data/{MODEL}", f"/api/data/{MODEL}/me")),
        ("GET", f"/api/users/{eve['id']}", b""),
        ("PATCH", f"/api/users/{eve['id']}", b'{"role": "agent", "password": "another long password"}'),
        ("GET", f"/api/permissions/users/{eve['id']}", b""),
        ("GET", f"/api/permissions/users/{eve['id']}/a.read", b""),
        ("PUT", f"/api/permissions/users/{eve['id']}/a.read", b""),
        ("DELETE", f"/api/permissions/users/{eve['id']}/a.read", b""),
    ):  # fmt: skip
        reply = await target.ask(method, path, body=body)
        # Without a permission store there is nobody to ask about grants.
        assert reply.status == 404 or (reply.status == 501 and "/permissions/" in path), (method, path, reply)
    for path in (f"{ROWS}?f_id={target.foreign}", f"{ROWS}?f_organization_id={eve['organization_id']}"):
        assert (await target.ask("GET", path)).json()["data"] == []
    for planted in (
        {"name": "Rex", "id": target.foreign},
        {"name": "Rex", "organization_id": eve["organization_id"], "created_by_id": eve["id"]},
    ):
        made = (await target.ask("POST", ROWS, body=json.dumps(planted).encode())).json()["data"]
        assert made["id"] != target.foreign
        assert (made["organization_id"], made["created_by_id"]) != (eve["organization_id"], eve["id"])
        moved = {"organization_id": eve["organization_id"], "id": target.foreign}
        await target.ask("PATCH", f"{ROWS}/{made['id']}", body=json.dumps(moved).encode())
    assert await target.foreign_rows() == before
    assert (await target.ask("GET", "/api/auth/me", target.eve)).json()["data"]["user"] == eve


async def test_tokens_that_do_not_hold_are_401_on_every_route(target: Target) -> None:
    good = target.ada["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(good, options={"verify_signature": False})
    other = jwt.decode(target.eve["Authorization"].removeprefix("Bearer "), options={"verify_signature": False})
    now = int(time.time())
    head, payload, signature = good.split(".")
    none = jwt.encode(claims, "", algorithm="none")

    def made(key: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
        changed = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(changed, key, algorithm=algorithm)

    tokens = {
        "none": none,
        "none, signed": none + signature,
        "another algorithm": made(key=SECRET * 2, algorithm="HS512"),
        "another key": made(key="another secret of thirty-two bytes or more"),
        "expired": made(exp=now - 3_600),
        "not yet": made(nbf=now + 3_600, iat=now + 3_600),
        "another issuer": made(iss="somebody else"),
        "another subject's organization": made(org=other["org"]),
        "a subject that is none": made(sub="ada"),
        "a subject that is nobody": made(sub=str(uuid.uuid4())),
        "an organization that is none": made(org="'; DROP TABLE users; --"),
        "no expiry": made(exp=None),
        "no subject": made(sub=None),
        "a payload of another": f"{head}.{target.eve['Authorization'].split('.')[1]}.{signature}",
        "no signature": f"{head}.{payload}.",
        "two parts": f"{head}.{payload}",
        "twice": f"{good} {good}",
        "no token at all": "nonsense",
        "not base64": "!!!.???.***",
        "a number": "1",
        "very long": "x" * 200_000,
    }
    assert (await target.ask("GET", ROWS)).status == 200
    for name, token in tokens.items():
        for method, path in (
            ("GET", ROWS),
            ("GET", f"{ROWS}/{target.row}"),
            ("POST", ROWS),
            ("GET", "/api/auth/me"),
            ("GET", f"{ROWS}/export"),
            ("GET", "/api/metacore/manifests"),
            ("GET", "/openapi.json"),
        ):
            reply = await target.ask(method, path, {"Authorization": f"Bearer {token}"}, b'{"name": "x"}')
            assert (reply.status, reply.headers.get("www-authenticate")) == (401, "Bearer"), (name, path)


async def test_every_route_asks_for_a_token_unless_it_is_meant_for_anybody(target: Target) -> None:
    open_paths = {
        *("/healthz", "/readyz", "/metrics", "/docs", "/docs/assets/{name}", "/openapi.json", "/api/ws"),
        *("/api/auth/login", "/api/auth/refresh", "/api/auth/register"),
        *("/api/metacore/manifests", "/api/metacore/navigation", "/api/metacore/addons/{key}/frontend/{path}"),
        "/api/metacore/hooks/{installation_id}/{path}",
    }
    for method, path in await operations(target):
        reply = await target.ask(method, filled(path, target.row), JSON, b"{}")
        if path in open_paths:
            assert reply.status in (200, 400, 404), (method, path, reply)
        else:
            assert reply.status == 401, (method, path, reply)


async def test_methods_that_a_route_does_not_have_are_405_and_say_which_it_has(target: Target) -> None:
    for path in (ROWS, f"{ROWS}/{target.row}", "/api/auth/login", "/api/metadata/all", "/api/metacore/catalog"):
        reply = await target.ask("PROPFIND", path)
        assert (reply.status, reply.json()["code"]) == (405, "method_not_allowed")
        assert reply.headers["allow"]


async def test_paths_that_no_route_answers_are_404_in_the_envelope(target: Target) -> None:
    for path in ("/api", "/api/", "/api/nothing", "/api/%00", "/api/dynamic", "/api/" + "x" * 9_000, "/api//dynamic"):
        reply = await target.ask("GET", path)
        assert (reply.status, reply.json()["code"]) == (404, "not_found"), path


class TestUnderRandomInput:
    """What the lists above do not think of. Every run tries the same examples, so that a failure can be repeated."""

    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(TEXTS)
    document = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    )
    body = st.dictionaries(st.sampled_from(COLUMNS) | st.text(), document, max_size=6)
    query = st.lists(
        st.tuples(
            st.sampled_from(PARAMETERS) | st.sampled_from([f"f_{name}" for name in COLUMNS]) | st.text(),
            st.text() | st.sampled_from(TEXTS) | st.sampled_from(COLUMNS),
        ),
        max_size=6,
    )

    @settings(
        max_examples=120,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(body=body, query=query, raw=st.binary(max_size=200))
    async def test_rows_answer_with_an_envelope(
        self, target: Target, body: dict[str, Any], query: list[tuple[str, str]], raw: bytes
    ) -> None:
        text = "&".join(f"{escaped(name)}={escaped(value)}" for name, value in query)
        content = json.dumps(body).encode()
        await target.ask("GET", f"{ROWS}?{text}")
        await target.ask("GET", f"{ROWS}/export?{text}")
        await target.ask("GET", f"/api/options/{MODEL}?{text}")
        await target.ask("GET", f"/api/search/{MODEL}?{text}")
        await target.ask("GET", f"{ROWS}/facets?{text}")
        await target.ask("POST", ROWS, body=content)
        await target.ask("PATCH", f"{ROWS}/{target.row}?{text}", body=content)
        await target.ask("POST", f"{ROWS}/import/validate", body=b"[" + content + b"]")
        await target.ask("POST", "/api/auth/login", body=content)
        for path in (ROWS, f"{ROWS}/import", "/api/auth/login", "/api/users", "/api/metacore/installations/zoo"):
            await target.ask("POST", path, body=raw)


def escaped(text: str) -> str:
    return quote(text[:500].encode("utf-8", "surrogatepass"), safe="")
