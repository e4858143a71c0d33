"""Closes and subscribes the connections of all instances, from any instance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bff.cluster.context import ClusterContext
from bff.cluster.control_log import ControlLog
from bff.cluster.envelopes import Kind, envelope
from bff.cluster.index import ConnectionIndex
from bff.cluster.revocations import Revocations
from bff.cluster.scripts import load
from bff.connections.close_codes import CloseCode
from bff.connections.connection import instance_of
from bff.names import check_connection_id, check_lists, check_topic, check_user_id


class ConnectionControl:
    """The part of `Messenger` that sends control messages to instances."""

    def __init__(
        self,
        context: ClusterContext,
        index: ConnectionIndex,
        control_log: ControlLog,
        revocations: Revocations,
    ) -> None:
        self._pipeline = context.pipeline
        self._index = index
        self._control_log = control_log
        self._revocations = revocations
        self._keys = context.keys
        self._publish_to_user = load(context.pipeline, "publish_to_user")

    async def subscribe(self, user_id: str, topic: str) -> int:
        """Subscribe all current connections of a user to a topic; each gets an event `subscribed`.

        Returns the number of addressed connections.
        """
        check_user_id(user_id)
        check_topic(topic)
        addressed: int = await self._publish_to_user(
            [self._keys.connections(user_id)],
            [envelope(Kind.SUBSCRIBE_USER, user_id, topic), self._keys.instance_channel_prefix],
        )
        return addressed

    async def unsubscribe(self, user_id: str, topic: str) -> int:
        """Unsubscribe all current connections of a user; each gets an event `unsubscribed`.

        This is sent and kept as by `close_user`. Returns the number of connections in the index.
        """
        check_topic(topic)
        return await self._revoke_of_user(user_id, Kind.UNSUBSCRIBE_USER, topic)

    async def close_connection(
        self, connection_id: str, code: CloseCode = CloseCode.REVOKED
    ) -> int:
        """Close one connection; returns the number of addressed connections."""
        check_connection_id(connection_id)
        await self._control_log.publish(
            envelope(Kind.CLOSE_CONNECTION, connection_id, str(int(code)))
        )
        return self._addressed(connection_id)

    async def close_user(self, user_id: str, code: CloseCode = CloseCode.REVOKED) -> int:
        """Close all connections of a user; returns the number of connections in the index.

        This is sent to all instances, so it also reaches a connection whose entry is missing. It is
        kept in Redis for an instance that does not receive it.
        """
        return await self._revoke_of_user(user_id, Kind.CLOSE_USER, str(int(code)))

    async def close_users(
        self, user_ids: Iterable[str], code: CloseCode = CloseCode.REVOKED
    ) -> list[int]:
        """Close all connections of several users.

        Returns the number of addressed connections of each user, in the order of the users.

        Raises:
            TypeError: `user_ids` is a string instead of a list.
        """
        check_lists(user_ids=user_ids)
        users = list(dict.fromkeys(user_ids))
        for user_id in users:
            check_user_id(user_id)
        return await asyncio.gather(*(self.close_user(user_id, code) for user_id in users))

    async def close_session(self, session_id: str) -> None:
        """End a session (`Caller.session_id`): close its connections on every instance with 4505,
        and refuse its tokens, tickets and cookie from now on. Other sessions of the user stay."""
        await self._revocations.revoke_session(session_id)

    async def close_all(self, code: CloseCode = CloseCode.DRAIN) -> int:
        """Close every connection of every instance; returns the number of addressed connections."""
        text = envelope(Kind.CLOSE_ALL, str(int(code)))
        await self._control_log.publish(text)
        return self._index.count()

    async def _revoke_of_user(self, user_id: str, kind: Kind, line: str) -> int:
        check_user_id(user_id)
        indexed = self._pipeline.submit("HLEN", self._keys.connections(user_id))
        await self._control_log.publish(envelope(kind, user_id, line))
        return int(await indexed)

    def _addressed(self, connection_id: str) -> int:
        return int(self._index.is_living(instance_of(connection_id)))
