"""The page on embedding: its code, run as one program of its own."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"

DRIVER = """

import asyncio

import httpx2


async def drive():
    await host.boot()
    async with web.router.lifespan_context(web):
        transport = httpx2.ASGITransport(app=web)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            person = {"name": "Ada", "email": "ada@example.com", "password": "correct horse battery"}
            session = (await client.post("/api/auth/register", json=person)).json()["data"]
            client.headers["Authorization"] = "Bearer " + session["token"]
            gift = await client.post("/api/dynamic/products", json={"name": "Gift"})
            assert (gift.status_code, gift.json()["code"]) == (422, "price_missing"), gift.text
            for name, price in (("Mug", 7.5), ("Lamp", 30)):
                await client.post("/api/dynamic/products", json={"name": name, "price": price})
            assert (await client.get("/api/cheapest")).json()["data"]["name"] == "Mug"
            await host.lifecycles.install("crm", __import__("uuid").UUID(session["user"]["organization_id"]))
            await kernel.loader.load()
            lead = await client.post("/api/dynamic/leads", json={"name": "Eve"})
            assert lead.status_code == 201, lead.text
    print("all of it ran")


asyncio.run(drive())
"""


async def test_the_code_of_the_page_runs_as_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)) + DRIVER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"all of it ran" in output
