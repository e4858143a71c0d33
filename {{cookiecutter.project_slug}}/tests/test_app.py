"""The app as a whole: health, authentication, mesh services, broadcasts."""

from __future__ import annotations

from bff import CloseCode, Service
from bff.testing import RunningBff


async def test_the_app_starts_and_is_ready(bff: RunningBff) -> None:
    async with bff.http() as http:
        assert (await http.get("/health/live")).json() == {"alive": True}
        ready = await http.get("/health/ready")
        assert ready.status_code == 200, ready.text
        assert "bff_connections" in (await http.get("/metrics")).text


async def test_the_hello_names_the_user(bff: RunningBff) -> None:
    async with bff.browser("alice") as alice:
        assert alice.hello["user_id"] == "alice"


async def test_a_browser_without_a_token_is_refused(bff: RunningBff) -> None:
    async with bff.handshake() as browser:
        assert await browser.closed() == CloseCode.NOT_AUTHENTICATED
    async with bff.event_stream() as stream:
        assert stream.response.status_code == 401


async def test_the_app_calls_services_and_services_send_to_users(bff: RunningBff) -> None:
    weather = Service("weather")

    @weather.method("today")
    async def today(city: str) -> str:
        return f"sunny in {city}"

    async with bff.mesh_service(weather), bff.browser("alice") as alice:
        mesh, name = bff.engine.mesh, bff.settings.app_name
        said = await mesh.request("weather", "today", {"city": "Basel"})
        note = {"user_ids": ["alice"], "topic": "notice", "event": {"text": said}}
        await mesh.request(name, "send_to_users", note)
        assert (await alice.event("notice"))["event"] == {"text": "sunny in Basel"}


async def test_an_administrator_sends_a_broadcast_to_all(bff: RunningBff) -> None:
    note = {"audience": "all", "topic": "notice", "event": {"text": "Maintenance at 22:00"}}
    async with bff.browser("alice") as alice, bff.http("carol", ["admin"]) as carol:
        sent = await carol.post("/admin/broadcasts", json=note)
        assert sent.status_code == 201, sent.text
        notice = (await alice.event("notice"))["event"]
        assert notice == {"text": "Maintenance at 22:00", "broadcast_id": sent.json()["id"]}
    async with bff.http("alice") as http:
        assert (await http.post("/admin/broadcasts", json=note)).status_code == 403
