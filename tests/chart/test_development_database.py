"""The SQL that prepares a development database, run by psql as the image's entrypoint does."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.chart.rendering import environment, named, pod, rendered

from metacore.db.database import Database
from metacore.db.embedded import EmbeddedServer
from metacore.db.migrate import current_revision, head_revision, migrate
from metacore.db.postgres_binaries import find_binaries
from metacore.db.roles import check_kernel_role

ROLES = """
SELECT rolname AS name, rolcreaterole AS makes_roles, rolsuper OR rolbypassrls OR rolcreatedb AS powerful
FROM pg_roles WHERE rolname LIKE 'metacore%'
"""
OPEN_TO_ALL = """
SELECT count(*) FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
WHERE datname = 'metacore' AND grantee = 0
"""


async def test_it_makes_what_migrations_and_kernels_need(tmp_path: Path) -> None:
    script = tmp_path / "prepare-database.sql"
    script.write_text(named(rendered("development"), "ConfigMap", "shop-postgresql")["data"]["prepare-database.sql"])
    async with EmbeddedServer(tmp_path / "postgresql", extra_settings={"fsync": "off"}) as server:
        superuser = urlsplit(server.superuser_url)
        command = ["psql", "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--quiet", "-f", str(script)]
        done = await asyncio.to_thread(
            subprocess.run,
            [str(find_binaries(None) / command[0]), *command[1:]],
            env={
                **os.environ,
                "PGHOST": str(superuser.hostname),
                "PGPORT": str(superuser.port),
                "PGUSER": str(superuser.username),
                "PGPASSWORD": str(superuser.password),
                "PGDATABASE": "postgres",
                "METACORE_OWNER_PASSWORD": "the owner's 'word'",
                "METACORE_KERNEL_PASSWORD": "the kernel's",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert await migrate(server.url("metacore_owner", "the owner's 'word'", "metacore")) == head_revision()
        kernel = await Database.connect(server.url("metacore_kernel", "the kernel's", "metacore"), pool_size=1)
        try:
            await check_kernel_role(kernel)
            assert await current_revision(kernel) == head_revision()
            roles = await kernel.postgres.fetch(ROLES)
            assert {role["name"]: (role["makes_roles"], role["powerful"]) for role in roles} == {
                "metacore_owner": (True, False),
                "metacore_kernel": (False, False),
            }
            assert not await kernel.postgres.fetchval(OPEN_TO_ALL)
        finally:
            await kernel.close()


def test_the_server_gets_the_passwords_and_the_script() -> None:
    variables = environment(rendered("development"), "postgresql")
    secret = {key: variables[key]["secretKeyRef"]["key"] for key in variables if key != "PGDATA"}
    assert secret == {
        "POSTGRES_PASSWORD": "superuser-password",
        "METACORE_OWNER_PASSWORD": "owner-password",
        "METACORE_KERNEL_PASSWORD": "kernel-password",
    }
    spec = pod(rendered("development"), "postgresql")["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["/docker-entrypoint-initdb.d"] == "prepare"
    assert variables["PGDATA"].startswith("/data/")
    assert {"configMap": {"name": "shop-postgresql"}, "name": "prepare"} in spec["volumes"]


def test_its_data_outlives_the_pod_unless_told_otherwise() -> None:
    (claim,) = named(rendered("development"), "StatefulSet", "shop-postgresql")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "8Gi"}}
    bare = named(rendered("development_without_volume"), "StatefulSet", "shop-postgresql")["spec"]
    assert "volumeClaimTemplates" not in bare
    assert {"name": "data", "emptyDir": {"sizeLimit": "8Gi"}} in bare["template"]["spec"]["volumes"]
