"""The audit log: entries are recorded at once, and written to the database in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, insert, tuple_
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from bff.backoff import backoff_delays
from bff.db.database import UNAVAILABLE, Database
from bff.db.tables import AuditEntry
from bff.errors import Code, Problem
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_MAX_WAITING: Final = 10_000
"""Entries that wait for the database. More are dropped; each is in the log of the process."""
_BATCH: Final = 200
_MAX_REFUSED_PER_MINUTE: Final = 120
"""Refused acts that an instance stores. Anybody can cause them, so the others are only in the log
of the process."""
_RETRY_SECONDS: Final = (0.5, 30.0)
_FLUSH_SECONDS: Final = 3.0
"""How long the stop waits for the database."""
_DELETE_SECONDS: Final = 3600.0
_MAX_ADDRESS: Final = 64

Detail = str | int | bool | None


class AuditOutcome(StrEnum):
    """How an act ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    """It raised an exception; what was done is not known."""


class AuditLog:
    """Records who did what. It never delays the act, and never makes it fail.

    An entry is written to the log of the process at once, and to the database by a task: so an
    unavailable database delays entries, and a crash loses at most those of the last moments.
    """

    def __init__(self, database: Database, settings: Settings, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._keep = timedelta(days=settings.audit_retention_days)
        self._waiting: asyncio.Queue[AuditEntry] = asyncio.Queue(_MAX_WAITING)
        self._minute = 0
        self._refused = 0
        """Refused acts in `_minute`."""
        self._storing = 0
        """Entries of the batch that is being stored."""

    def record(
        self,
        action: str,
        *,
        outcome: AuditOutcome = AuditOutcome.DONE,
        actor: str | None = None,
        user: str | None = None,
        session: str | None = None,
        address: str = "",
        **details: Detail,
    ) -> None:
        """Record an act. Never waits, never raises.

        `actor` is the id of the user who did it, `user` and `session` are the ids of those that it
        concerns. `details` must not contain tokens, tickets, cookies or bodies.
        """
        entry = AuditEntry(
            action=action,
            outcome=outcome,
            actor_id=actor,
            user_id=user,
            session_id=session,
            address=address[:_MAX_ADDRESS],
            details=details,
        )
        logger.info(
            "audit",
            extra={
                "action": action,
                "outcome": str(outcome),
                "actor": actor,
                "user": user,
                "session": session,
                "address": entry.address,
                "details": details,
            },
        )
        if outcome is AuditOutcome.REFUSED and self._is_flood():
            self._metrics.audit_dropped.inc()
            return
        try:
            self._waiting.put_nowait(entry)
        except asyncio.QueueFull:
            self._metrics.audit_dropped.inc()

    def _is_flood(self) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._refused = minute, 0
        self._refused += 1
        return self._refused > _MAX_REFUSED_PER_MINUTE

    async def read(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        **equal: str | None,
    ) -> Sequence[AuditEntry]:
        """Up to `limit` entries, the newest first; with the id `before`, those older than that one.

        `since` and `until` limit the time; `equal` are values of columns, for example `user_id`.

        Raises:
            Problem: `not_found`, there is no entry with the id `before`.
        """
        order = (col(AuditEntry.at), col(AuditEntry.id))
        query = select(AuditEntry).order_by(*(column.desc() for column in order)).limit(limit)
        for name, value in equal.items():
            if value is not None:
                query = query.where(getattr(AuditEntry, name) == value)
        if since is not None:
            query = query.where(col(AuditEntry.at) >= since)
        if until is not None:
            query = query.where(col(AuditEntry.at) < until)
        async with self._database.session() as session:
            if before is not None:
                last = await session.get(AuditEntry, before)
                if last is None:
                    raise Problem(Code.NOT_FOUND, "There is no such entry")
                query = query.where(tuple_(*order) < (last.at, last.id))
            return (await session.exec(query)).all()

    # Writing

    async def run(self) -> None:
        """Write entries, and delete old ones, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_entries())
            tasks.create_task(self._delete_periodically())

    async def flush(self) -> None:
        """Wait until everything is written, but not longer than three seconds."""
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._waiting.join()
        except TimeoutError:
            entries = self._storing + self._waiting.qsize()
            self._metrics.audit_dropped.inc(entries)
            logger.error("audit entries not stored at shutdown", extra={"entries": entries})

    async def _write_entries(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            self._storing = len(batch)
            await self._store(batch)
            self._storing = 0
            for _ in batch:
                self._waiting.task_done()

    async def _store(self, batch: Sequence[AuditEntry]) -> None:
        """Store a batch, as soon as the database is available. If it refuses the batch, store its
        entries one by one, so that a wrong one costs only itself."""
        rows = [entry.model_dump() for entry in batch]
        for delay in backoff_delays(*_RETRY_SECONDS):
            try:
                await self._insert(rows)
                return
            except IntegrityError:  # it was stored, and the answer was lost
                return
            except UNAVAILABLE as error:
                logger.warning(
                    "audit entries not stored, retrying",
                    extra={
                        "entries": len(batch) + self._waiting.qsize(),
                        "error": type(error).__name__,
                    },
                )
            except Exception:
                if len(batch) > 1:
                    for entry in batch:
                        await self._store([entry])
                    return
                logger.exception("audit entry not stored")
                self._metrics.audit_dropped.inc()
                return
            await asyncio.sleep(delay)

    async def _insert(self, rows: Sequence[dict[str, Any]]) -> None:
        async with self._database.session() as session:
            await (await session.connection()).execute(insert(AuditEntry), rows)
            await session.commit()

    async def _delete_periodically(self) -> None:
        while True:
            try:
                await self.delete_old()
            except UNAVAILABLE as error:
                logger.warning(
                    "old audit entries not deleted", extra={"error": type(error).__name__}
                )
            except Exception:
                logger.exception("old audit entries not deleted")
            await asyncio.sleep(_DELETE_SECONDS)

    async def delete_old(self) -> None:
        """Delete the entries that are older than `AUDIT_RETENTION_DAYS`, in small transactions."""
        cutoff = datetime.now(UTC) - self._keep
        oldest = (
            select(AuditEntry.id)
            .where(col(AuditEntry.at) < cutoff)
            .order_by(col(AuditEntry.at))
            .limit(_BATCH)
        )
        while True:
            async with self._database.session() as session:
                ids = (await session.exec(oldest)).all()
                if ids:
                    old = delete(AuditEntry).where(col(AuditEntry.id).in_(ids))
                    await (await session.connection()).execute(old)
                    await session.commit()
            if len(ids) < _BATCH:
                return
