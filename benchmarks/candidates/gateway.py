"""nuropb_gw, the gateway that this template succeeds. Usage: … <port> <amqp url> <secret>"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
from typing import Any

import tornado
from nuropb.rmq_lib import configure_nuropb_rmq
from nuropb_gw.handler_manager import HandlerManager
from nuropb_gw.handlers.ws_handler import WsHandler
from nuropb_gw.service_mesh_manager import ServiceMeshManager

from benchmarks.candidates.drive import Drive
from benchmarks.candidates.echo_service import NAMES

SECRET = sys.argv[3].encode()


def authorise_from_token(token: str) -> dict[str, Any] | None:
    """HS256, checked with nothing but the standard library: the least that anybody can do."""
    signed, _, signature = token.rpartition(".")
    expected = hmac.digest(SECRET, signed.encode(), hashlib.sha256)
    if not hmac.compare_digest(expected, _decode(signature)):
        return None
    claims = json.loads(_decode(signed.partition(".")[2]))
    if claims["exp"] < time.time():
        return None
    return {"user_id": claims["sub"], "username": claims["sub"], "bearer_token": token}


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _event(text: str) -> dict[str, Any]:
    return {"type": "event", "payload": {"topic": "bench", "event": text}}


class Command(tornado.web.RequestHandler):
    def initialize(self, drive: Drive, mesh: ServiceMeshManager) -> None:
        self._drive, self._mesh = drive, mesh

    async def get(self, command: str) -> None:
        if not self._mesh.connected:
            self.send_error(503)
            return
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        self.write(await self._drive.run(command, query))


async def main(port: int, amqp_url: str) -> None:
    configure_nuropb_rmq(rmq_url=amqp_url, **NAMES)
    handlers = HandlerManager(service_name="gateway", instance_id="1")
    mesh = ServiceMeshManager(
        service_name="gateway", instance_id="1", amqp_url=amqp_url, handler_manager=handlers
    )
    mesh.connect()
    drive = Drive(
        lambda text: handlers.send_message_to_all(_event(text)),
        lambda user, text: handlers.send_message_to_user_ids([user], _event(text)),
    )
    application = tornado.web.Application(
        [
            (r"/ws", WsHandler),
            (r"/bench/(\w+)", Command, {"drive": drive, "mesh": mesh}),
        ],
        handler_manager=handlers,
        authorise_from_token=authorise_from_token,
        allowed_origins=["*"],
        cookie_secret=sys.argv[3],
        session_cookie_name="session",
        authentication_timeout=15,
        allow_authorisation_cookie=True,
        log_function=lambda handler: None,
    )
    application.listen(port, "127.0.0.1", backlog=2048)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
