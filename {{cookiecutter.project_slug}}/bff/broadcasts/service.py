"""Stores broadcasts in the database and sends them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import tuple_
from sqlmodel import col, select

from bff.broadcasts.retained import MAX_RETAINED, RetainedBroadcast, RetainedBroadcasts
from bff.connections.frames import encode
from bff.connections.json_reader import check_depth, decode
from bff.connections.messages import Event
from bff.connections.positions import Position
from bff.db.database import UNAVAILABLE as DATABASE_UNAVAILABLE
from bff.db.database import Database
from bff.db.tables import Audience, Broadcast
from bff.errors import Code, Outcome, Problem
from bff.names import check_connection_id, check_user_id
from bff.redis.client import UNAVAILABLE as REDIS_UNAVAILABLE
from bff.redis.client import why
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

if TYPE_CHECKING:
    from bff.cluster.messenger import Messenger, Sent

logger = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f-]{36}")
_MAX_EXPIRY = datetime(9999, 1, 1, tzinfo=UTC)

MAX_TARGETED = 1_000
"""How many retained broadcasts with the audience `users` are kept: the newest."""


class BroadcastService:
    """Creates and reads broadcasts. Endpoints check the scope `admin` before they call it."""

    def __init__(
        self, database: Database, pipeline: AutoPipeline, messenger: Messenger, settings: Settings
    ) -> None:
        self._database = database
        self._messenger = messenger
        self._settings = settings
        self._retained = RetainedBroadcasts(pipeline, settings, self._load_retained)

    async def create(
        self,
        *,
        created_by: str,
        audience: Audience,
        recipients: Sequence[str] = (),
        topic: str,
        event: dict[str, Any],
        expires_at: datetime | None = None,
    ) -> Broadcast:
        """Store a broadcast and send it. `broadcast_id` is added to the event.

        `recipients` are user ids, or one connection id, as `audience` requires. With `expires_at`
        the broadcast is retained: clients of the audience that connect until then get it too.

        Raises:
            Problem: `invalid_params` when the arguments contradict each other, or the event is
                too large, nested too deep, not JSON, or must be declared and is not;
                `service_unavailable` when Redis failed: the broadcast is stored, with the id in
                the description, and may have been sent.
        """
        _check_audience(audience, recipients)
        _check_expiry(audience, expires_at)
        event = self._checked_event(event)
        broadcast = Broadcast(
            created_by=created_by,
            audience=audience,
            recipients=list(dict.fromkeys(recipients)),
            topic=topic,
            event=event,
            expires_at=expires_at,
        )
        self._messenger.check_event(topic, _event(broadcast).event)
        async with self._database.session() as session:
            session.add(broadcast)
            await session.commit()
        try:
            if expires_at is not None:
                await self._retained.invalidate()
            sent = await self._send(broadcast)
        except REDIS_UNAVAILABLE as error:
            logger.warning(
                "broadcast stored, delivery not confirmed: Redis unavailable",
                extra={"broadcast": broadcast.id, "reason": why(error)},
            )
            raise Problem(
                Code.SERVICE_UNAVAILABLE,
                f"Broadcast {broadcast.id} is stored, but Redis did not confirm that it was sent: "
                "check what clients got before you send it again",
                outcome=Outcome.UNKNOWN,
            ) from error
        broadcast.message_ids = [one.id for one in sent]
        broadcast.addressed = sum(one.addressed for one in sent)
        await self._store_result(broadcast)
        return broadcast

    async def get(self, broadcast_id: str) -> Broadcast:
        """The broadcast with that id.

        Raises:
            Problem: `not_found`.
        """
        broadcast = None
        if _ID.fullmatch(broadcast_id):
            async with self._database.session() as session:
                broadcast = await session.get(Broadcast, broadcast_id)
        if broadcast is None:
            raise Problem(Code.NOT_FOUND, "There is no such broadcast")
        return broadcast

    async def retained_for(self, user_id: str, version: Position) -> list[Event]:
        """The broadcasts to the user, or to all, that have not expired; oldest first.

        `version` is the current version of the retained broadcasts, from `Subscriptions.join`: if
        this instance's copy of them is older, it is read again from the database.

        Raises:
            Problem: `service_unavailable` when the database is unavailable.
        """
        try:
            return await self._retained.of(user_id, version)
        except DATABASE_UNAVAILABLE as error:
            raise Problem(
                Code.SERVICE_UNAVAILABLE, "Retained broadcasts are not available"
            ) from error

    async def list(self, limit: int = 50, before: str | None = None) -> list[Broadcast]:
        """Up to `limit` broadcasts, newest first; with the id `before`, those older than that one.

        Raises:
            Problem: `not_found` when there is no broadcast with the id `before`.
        """
        order = (col(Broadcast.created_at), col(Broadcast.id))
        query = select(Broadcast).order_by(*(column.desc() for column in order)).limit(limit)
        if before is not None:
            last = await self.get(before)
            query = query.where(tuple_(*order) < (last.created_at, last.id))
        async with self._database.session() as session:
            return list((await session.exec(query)).all())

    def _checked_event(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event as browsers get it: NaN has become null."""
        try:
            text = encode(event)
        except TypeError:
            raise Problem(Code.INVALID_PARAMS, "event: must be JSON") from None
        if len(text) > self._settings.max_frame_bytes:
            limit = self._settings.max_frame_bytes
            raise Problem(Code.INVALID_PARAMS, f"event: must not be larger than {limit} bytes")
        checked: dict[str, Any] = decode(text)
        check_depth(checked, self._settings.max_json_depth)
        return checked

    async def _send(self, broadcast: Broadcast) -> Sequence[Sent]:
        event = _event(broadcast)
        match broadcast.audience:
            case Audience.ALL:
                return [await self._messenger.to_all(event.topic, event.event)]
            case Audience.USERS:
                return await self._messenger.to_users(
                    broadcast.recipients, event.topic, event.event
                )
            case Audience.CONNECTION:
                (connection_id,) = broadcast.recipients
                return [
                    await self._messenger.to_connection(connection_id, event.topic, event.event)
                ]

    async def _store_result(self, broadcast: Broadcast) -> None:
        """Store the message ids and the count. The broadcast is sent even if this fails."""
        try:
            async with self._database.session() as session:
                await session.merge(broadcast)
                await session.commit()
        except DATABASE_UNAVAILABLE as error:
            logger.error(
                "broadcast sent, but result not stored: database unavailable",
                extra={"broadcast": broadcast.id, "error": type(error).__name__},
            )

    async def _load_retained(self) -> Sequence[RetainedBroadcast]:
        newest_first = (
            select(Broadcast)
            .where(col(Broadcast.expires_at) > datetime.now(UTC))
            .order_by(col(Broadcast.created_at).desc(), col(Broadcast.id).desc())
        )
        broadcasts: list[Broadcast] = []
        async with self._database.session() as session:
            for audience, limit in ((Audience.ALL, MAX_RETAINED), (Audience.USERS, MAX_TARGETED)):
                of_audience = newest_first.where(Broadcast.audience == audience).limit(limit)
                broadcasts += (await session.exec(of_audience)).all()
        broadcasts.sort(key=lambda one: (one.created_at, one.id))
        return [
            RetainedBroadcast(
                event=_event(broadcast),
                expires_at=broadcast.expires_at,
                users=frozenset(broadcast.recipients)
                if broadcast.audience == Audience.USERS
                else None,
            )
            for broadcast in broadcasts
            if broadcast.expires_at is not None
        ]


def _event(broadcast: Broadcast) -> Event:
    """`broadcast_id` lets clients recognise a retained broadcast that they got live already."""
    return Event(broadcast.topic, {**broadcast.event, "broadcast_id": broadcast.id})


def _check_audience(audience: Audience, recipients: Sequence[str]) -> None:
    if audience is Audience.ALL and recipients:
        raise Problem(Code.INVALID_PARAMS, "the audience all takes no recipients")
    if audience is Audience.USERS and not recipients:
        raise Problem(Code.INVALID_PARAMS, "the audience users needs user_ids")
    if audience is Audience.CONNECTION and len(recipients) != 1:
        raise Problem(Code.INVALID_PARAMS, "the audience connection needs one connection_id")
    check = check_connection_id if audience is Audience.CONNECTION else check_user_id
    for recipient in recipients:
        check(recipient)


def _check_expiry(audience: Audience, expires_at: datetime | None) -> None:
    if expires_at is None:
        return
    if audience is Audience.CONNECTION:
        raise Problem(Code.INVALID_PARAMS, "expires_at: only for the audiences all and users")
    if not datetime.now(UTC) < expires_at < _MAX_EXPIRY:
        raise Problem(Code.INVALID_PARAMS, "expires_at: must be in the future")
