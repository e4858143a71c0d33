"""Admin endpoints, included under `/admin`: list and close a user's connections; statistics."""

from __future__ import annotations

import logging

from fastapi import APIRouter, status
from pydantic import BaseModel

from bff.cluster.index import ConnectionDetails
from bff.cluster.lease import InstanceFacts
from bff.endpoints.dependencies import AdminDep, BffDep, IndexDep, MessengerDep
from bff.endpoints.names import Addressed, SessionIdInPath, TokenIdInPath, UserIdInPath

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


@router.post("/users/{user_id:text}/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_user(user_id: UserIdInPath, admin: AdminDep, bff: BffDep) -> None:
    """Sign a user out everywhere: connections close with 4505, and tokens, tickets and sessions
    that exist now are refused. The user can sign in again."""
    await bff.revocations.revoke_user(user_id)
    logger.info("administrator revokes a user", extra={"by": admin.user_id, "user": user_id})


@router.post("/sessions/{session_id:text}/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_session(session_id: SessionIdInPath, admin: AdminDep, bff: BffDep) -> None:
    """End one session (`sid`): its connections close with 4505, and its tokens, tickets and cookie
    are refused. The user's other sessions stay."""
    await bff.revocations.revoke_session(session_id)
    logger.info(
        "administrator revokes a session", extra={"by": admin.user_id, "session": session_id}
    )


@router.post("/tokens/{token_id:text}/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_token(token_id: TokenIdInPath, admin: AdminDep, bff: BffDep) -> None:
    """Refuse the token with this `jti`, and close the connections that it opened, with 4505."""
    await bff.revocations.revoke_token(token_id)
    logger.info("administrator revokes a token", extra={"by": admin.user_id, "token_id": token_id})


@router.get("/stats")
async def read_stats(index: IndexDep) -> Stats:
    """The number of connections, in total and on each instance."""
    instances = await index.instances()
    return Stats(connections=sum(facts.connections for facts in instances), instances=instances)
