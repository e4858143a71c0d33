"""The test kit: runs a BFF on a real server, with WebSocket and event stream clients and mesh
services.

`pytest_plugins = ["bff.testing.plugin"]` in `tests/conftest.py` adds the fixtures.
"""

from bff.testing.clients import Browser, EventSource
from bff.testing.running import RunningBff, run
from bff.testing.waiting import until

__all__ = ["Browser", "EventSource", "RunningBff", "run", "until"]
