"""A mesh service on the real nuropb. Usage: … <amqp url>"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from nuropb.rmq_api import RMQAPI
from nuropb.rmq_lib import configure_nuropb_rmq

NAMES = {
    "rpc_exchange": "nuropb-rpc-exchange",
    "events_exchange": "nuropb-events-exchange",
    "dl_exchange": "nuropb-dl-exchange",
    "dl_queue": "nuropb-dl-queue",
}


class Echo:
    _service_name = "bench"
    _version = "1.0.0"

    def echo(self, **values: Any) -> dict[str, Any]:
        return values


async def main(amqp_url: str) -> None:
    configure_nuropb_rmq(rmq_url=amqp_url, **NAMES)
    api = RMQAPI(
        amqp_url=amqp_url,
        service_name=Echo._service_name,
        service_instance=Echo(),
        transport_settings={**NAMES, "prefetch_count": 0},
    )
    await api.connect()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
