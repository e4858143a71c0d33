"""The test kit: a whole BFF on a real server, browsers, event streams, services of the mesh.

`pytest_plugins = ["bff.testing.plugin"]` in `tests/conftest.py` brings the fixtures.
"""

from bff.testing.clients import Browser, EventSource
from bff.testing.running import RunningBff, run
from bff.testing.waiting import until

__all__ = ["Browser", "EventSource", "RunningBff", "run", "until"]
