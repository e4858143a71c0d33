"""Admin endpoints, included under `/admin`: list and close a user's connections; statistics."""

from __future__ import annotations

import logging

from fastapi import APIRouter, status
from pydantic import BaseModel

from bff.cluster.index import ConnectionDetails
from bff.cluster.lease import InstanceFacts
from bff.endpoints.dependencies import AdminDep, IndexDep, MessengerDep
from bff.endpoints.names import Addressed, UserIdInPath

logger = logging.getLogger(__name__)

router = APIRouter()


class Stats(BaseModel):
    """The instances with a valid lease, and the numbers that each last reported."""

    connections: int
    instances: list[InstanceFacts]


@router.get("/users/{user_id:text}/connections")
async def read_connections(user_id: UserIdInPath, index: IndexDep) -> list[ConnectionDetails]:
    """The user's connections, on all instances."""
    return await index.connections_of(user_id)


@router.delete("/users/{user_id:text}/connections", status_code=status.HTTP_202_ACCEPTED)
async def delete_connections(
    user_id: UserIdInPath, admin: AdminDep, messenger: MessengerDep
) -> Addressed:
    """Close all connections of a user, with code 4504. They close shortly after the response."""
    addressed = await messenger.close_user(user_id)
    logger.info(
        "administrator closes connections of a user",
        extra={"by": admin.user_id, "user": user_id, "connections": addressed},
    )
    return Addressed(addressed=addressed)


@router.get("/stats")
async def read_stats(index: IndexDep) -> Stats:
    """The number of connections, in total and on each instance."""
    instances = await index.instances()
    return Stats(connections=sum(facts.connections for facts in instances), instances=instances)
