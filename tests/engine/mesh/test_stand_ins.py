"""Services that answer in the process, in development."""

from __future__ import annotations

import pytest
from bff import Settings

from tests.engine.echo import create_app


def test_a_stand_in_with_the_name_of_the_app_is_refused() -> None:
    """The mesh would distribute calls of the name between the two."""
    settings = Settings(
        _env_file=None,
        app_name="echo",
        amqp_url="memory://",
        environment="test",
        jwt_secret="s",
    )
    with pytest.raises(ValueError, match="APP_NAME=echo is also the name of a stand-in"):
        create_app(settings)
