"""For administrators, under `/admin` of the app: who is connected where, and closing sockets."""

from __future__ import annotations

import logging

from fastapi import APIRouter, status
from pydantic import BaseModel, ConfigDict

from bff.cluster.index import ConnectionFacts
from bff.cluster.lease import InstanceFacts
from bff.endpoints.dependencies import AdminDep, IndexDep, MessengerDep
from bff.endpoints.names import UserIdInPath

logger = logging.getLogger(__name__)

router = APIRouter()


class Addressed(BaseModel):
    """How many connections were told. Whether they still lived is not knowable."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"addressed": 3}]})

    addressed: int


class Stats(BaseModel):
    """The living instances, and what they last reported."""

    connections: int
    instances: list[InstanceFacts]


@router.get("/users/{user_id:path}/connections")
async def read_connections(user_id: UserIdInPath, index: IndexDep) -> list[ConnectionFacts]:
    """The user's connections, on whatever instance."""
    return await index.connections_of(user_id)


@router.delete("/users/{user_id:path}/connections", status_code=status.HTTP_202_ACCEPTED)
async def delete_connections(
    user_id: UserIdInPath, admin: AdminDep, messenger: MessengerDep
) -> Addressed:
    """Close all sockets of a user, with 4504. It is done when they are closed, a moment later."""
    addressed = await messenger.close_user(user_id)
    logger.info("%s disconnects %s: %s addressed", admin.user_id, user_id, addressed)
    return Addressed(addressed=addressed)


@router.get("/stats")
async def read_stats(index: IndexDep) -> Stats:
    """How many connections there are, and where."""
    instances = await index.instances()
    return Stats(connections=sum(facts.connections for facts in instances), instances=instances)
