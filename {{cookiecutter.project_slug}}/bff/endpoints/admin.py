"""Admin endpoints, included under `/admin`: connections, revocations, the audit log, statistics."""

from __future__ import annotations

from fastapi import APIRouter, status
from pydantic import BaseModel

from bff.cluster.index import ConnectionDetails
from bff.cluster.lease import InstanceFacts
from bff.endpoints.audit import AuditDep
from bff.endpoints.audit import router as audit_router
from bff.endpoints.dependencies import BffDep, IndexDep, MessengerDep
from bff.endpoints.names import Addressed, SessionIdInPath, TokenIdInPath, UserIdInPath

router = APIRouter()
router.include_router(audit_router)


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
    user_id: UserIdInPath, messenger: MessengerDep, audit: AuditDep
) -> Addressed:
    """Close all connections of a user, with code 4504. They close shortly after the response."""
    with audit.act("connections_closed", user=user_id):
        return Addressed(addressed=await messenger.close_user(user_id))


@router.post("/users/{user_id:text}/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_user(user_id: UserIdInPath, bff: BffDep, audit: AuditDep) -> None:
    """Sign a user out everywhere: connections close with 4505, and tokens, tickets and sessions
    that exist now are refused. The user can sign in again."""
    with audit.act("user_revoked", user=user_id):
        await bff.revocations.revoke_user(user_id)


@router.post("/sessions/{session_id:text}/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_session(session_id: SessionIdInPath, bff: BffDep, audit: AuditDep) -> None:
    """End one session (`sid`): its connections close with 4505, and its tokens, tickets and cookie
    are refused. The user's other sessions stay."""
    with audit.act("session_revoked", session=session_id):
        await bff.revocations.revoke_session(session_id)


@router.post("/tokens/{token_id:text}/revoke", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_token(token_id: TokenIdInPath, bff: BffDep, audit: AuditDep) -> None:
    """Refuse the token with this `jti`, and close the connections that it opened, with 4505."""
    with audit.act("token_revoked", token_id=token_id):
        await bff.revocations.revoke_token(token_id)


@router.get("/stats")
async def read_stats(index: IndexDep) -> Stats:
    """The number of connections, in total and on each instance."""
    instances = await index.instances()
    return Stats(connections=sum(facts.connections for facts in instances), instances=instances)
