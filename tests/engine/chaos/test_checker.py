"""The checker finds what breaks a rule, and nothing else. Each history is as short as can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.checker import Guarantee, Verdict, check
from tests.chaos.history import (
    Broke,
    Connected,
    DeadLettered,
    Delivered,
    Died,
    Gap,
    Healed,
    History,
    Id,
    Indexed,
    Left,
    Positioned,
    Record,
    Refused,
    Sent,
    Sick,
    Taken,
    Unknown,
    Unsubscribed,
    read,
)

ALLOWANCE = 5.0
STREAM_LENGTH = 1
TEA = "topic:tea"


class Story:
    """A history in the making: a second passes with each record. Its client is alice's phone."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = 0.0

    def tick(self, seconds: float = 1) -> float:
        self.now += seconds
        return self.now

    def connect(
        self,
        user: str = "user/e/0",
        *,
        since: str = "",
        recovered: bool | None = None,
        connection: str = "i1.x",
        client: str = "phone",
    ) -> None:
        at, owner = self.tick(), {"phone": "alice", "tablet": "alice", "bobs": "bob"}[client]
        self.records.append(
            Connected(
                at=at,
                client=client,
                user=owner,
                process=connection.partition(".")[0] + "-process",
                connection=connection,
            )
        )
        stands = {"user": user, "all": "all/e/0"}
        asked = {"user": since, "all": "all/e/0"} if since else {}
        self.position(stands, asked, recovered, client)

    def position(
        self,
        positions: dict[str, str],
        since: dict[str, str],
        recovered: bool | None = None,
        client: str = "phone",
    ) -> None:
        said = {}
        if recovered is not None:
            said = {stream: recovered or stream == "all" for stream in since}
        self.records.append(
            Positioned(
                at=self.tick(), client=client, since=since, positions=positions, recovered=said
            )
        )

    def subscribe(self, position: str, since: str = "", recovered: bool | None = None) -> None:
        self.position({TEA: position}, {TEA: since} if since else {}, recovered)

    def unsubscribe(self) -> None:
        self.records.append(Unsubscribed(at=self.tick(), client="phone", topics=["tea"]))

    def send(self, message: int, id: str | None, stream: str = "user:alice") -> None:
        way = "mesh" if id is None else "messenger"
        self.records.append(Sent(at=self.tick(), message=message, stream=stream, way=way))
        self.records.append(Taken(at=self.tick(), message=message, id=id))

    def send_vainly(self, message: int, outcome: type[Unknown] | type[Refused]) -> None:
        self.records.append(
            Sent(at=self.tick(), message=message, stream="user:alice", way="messenger")
        )
        self.records.append(outcome(at=self.tick(), message=message, reason="TimeoutError"))

    def get(self, message: int, id: str, *, applied: bool = True, client: str = "phone") -> None:
        self.records.append(
            Delivered(at=self.tick(), client=client, id=id, message=message, applied=applied)
        )

    def gap(self, position: str) -> None:
        stream = Id.parse(position).stream
        self.records.append(Gap(at=self.tick(), client="phone", positions={stream: position}))

    def leave(self, client: str = "phone") -> None:
        self.records.append(Left(at=self.tick(), client=client, code=1006))

    def index(self, *connections: str, leases: tuple[str, ...] = ("i1#1",)) -> None:
        self.records.append(
            Indexed(at=self.tick(), leases=list(leases), connections=list(connections))
        )

    def die(self, process: str) -> None:
        self.records.append(Died(at=self.tick(), process=process))

    @property
    def verdict(self) -> Verdict:
        return check(self.records, allowance=ALLOWANCE, max_stream_length=STREAM_LENGTH)

    def broken(self) -> list[Guarantee]:
        return [violation.guarantee for violation in self.verdict.violations]


@pytest.fixture
def story() -> Story:
    return Story()


def test_no_violations_when_each_message_is_received_once_in_order(story: Story) -> None:
    story.connect()
    story.connect("user/b/7", client="bobs", connection="i1.y")
    for number in (1, 2):
        story.send(number, f"user/e/{number}")
        story.get(number, f"user/e/{number}")
    story.send(3, "all/e/1", stream="all")
    for client in ("phone", "bobs"):
        story.get(3, "all/e/1", client=client)
    story.index("i1.x", "i1.y")
    assert story.verdict == Verdict([], applied=4, recovered=0, dropped=0, announcements=0, lost=0)


# No unannounced gap


def test_gap_a_missing_message_between_two_others(story: Story) -> None:
    story.connect()
    story.send_vainly(1, Unknown)
    story.send(2, "user/e/2")
    story.get(2, "user/e/2")
    assert story.broken() == [Guarantee.GAP]
    assert "user/e/0, then user/e/2: 1 missing" in str(story.verdict.violations[0])


def test_gap_a_new_epoch_without_a_gap_frame(story: Story) -> None:
    story.connect()
    story.send(1, "user/f/1")
    story.get(1, "user/f/1")
    assert story.broken() == [Guarantee.GAP]


def test_gap_the_last_message_never_came(story: Story) -> None:
    story.connect()
    story.send(1, "user/e/1")
    assert story.broken() == [Guarantee.GAP]


def test_gap_missed_messages_are_neither_sent_nor_reported(story: Story) -> None:
    story.connect()
    story.leave()
    story.send(1, "user/e/1")
    story.connect("user/e/1", since="user/e/0")
    assert story.broken() == [Guarantee.GAP]


def test_gap_recovered_is_true_but_messages_are_missing(story: Story) -> None:
    story.connect()
    story.leave()
    story.send(1, "user/e/1")
    story.send(2, "user/e/2")
    story.connect("user/e/2", since="user/e/0", recovered=True)
    story.get(2, "user/e/2")
    assert set(story.broken()) == {Guarantee.GAP}


def test_gap_an_event_that_the_mesh_has_confirmed_never_came(story: Story) -> None:
    story.connect()
    story.send(1, None)
    assert story.broken() == [Guarantee.GAP]


def test_gap_an_event_ends_among_the_dead_letters(story: Story) -> None:
    story.connect()
    story.send(1, None)
    story.gap("user/e/2")
    story.records.append(DeadLettered(at=story.tick(), message=1))
    assert story.broken() == [Guarantee.GAP]


def test_gap_an_announcement_covers_only_what_lies_before_it(story: Story) -> None:
    story.connect()
    story.gap("user/e/3")
    story.send(1, "user/e/4")
    story.send(2, None)
    assert story.broken() == [Guarantee.GAP, Guarantee.GAP]


def test_gap_an_announcement_of_a_new_epoch_covers_what_the_old_one_had_and_no_more(
    story: Story,
) -> None:
    story.connect()
    for number in (1, 2):
        story.records.append(
            Sent(at=story.tick(), message=number, stream="user:alice", way="admin")
        )
    story.gap("user/f/3")
    story.records.append(Taken(at=story.tick(), message=1, id="user/e/1"))
    story.records.append(Taken(at=story.tick(), message=2, id="user/f/4"))
    assert (story.broken(), story.verdict.lost) == ([Guarantee.GAP], 1)


def test_gap_a_client_that_cannot_come_back(story: Story) -> None:
    story.connect()
    story.leave()
    assert story.broken() == [Guarantee.GAP]


def test_no_gap_when_what_was_missed_follows_the_hello(story: Story) -> None:
    story.connect()
    story.leave()
    story.send(1, "user/e/1")
    story.connect("user/e/1", since="user/e/0", recovered=True)
    story.get(1, "user/e/1")
    assert (story.broken(), story.verdict.recovered) == ([], 1)


@pytest.mark.parametrize("after", ["user/e/2", "user/f/0"])
def test_no_gap_when_the_hello_says_not_recovered(story: Story, after: str) -> None:
    story.connect()
    story.leave()
    story.send(1, "user/e/1")
    story.send(2, None)
    story.connect(after, since="user/e/0", recovered=False)
    assert (story.broken(), story.verdict.lost, story.verdict.announcements) == ([], 2, 1)


def test_no_gap_when_an_open_connection_gets_a_gap_frame(story: Story) -> None:
    story.connect()
    story.send(1, "user/e/1")
    story.gap("user/f/0")
    story.send(2, "user/f/1")
    story.get(2, "user/f/1")
    assert (story.broken(), story.verdict.lost) == ([], 1)


@pytest.mark.parametrize("comes", [True, False])
def test_no_gap_a_message_with_unknown_outcome_may_come_or_not(story: Story, comes: bool) -> None:
    story.connect()
    story.send_vainly(1, Unknown)
    if comes:
        story.get(1, "user/e/1")
    assert story.broken() == []


def test_no_gap_what_was_sent_before_a_client_first_came(story: Story) -> None:
    story.send(1, None)
    story.send(2, "user/d/9")
    story.records.append(Sent(at=story.tick(), message=3, stream="user:alice", way="admin"))
    story.connect("user/e/1")
    story.records.append(Taken(at=story.tick(), message=3, id="user/e/1"))
    assert story.broken() == []


def test_gap_what_a_slow_answer_shows_to_be_later_than_the_first_position(story: Story) -> None:
    story.records.append(Sent(at=story.tick(), message=1, stream="user:alice", way="admin"))
    story.connect("user/e/1")
    story.records.append(Taken(at=story.tick(), message=1, id="user/e/2"))
    assert story.broken() == [Guarantee.GAP]


# Nothing given up


@pytest.mark.parametrize("missed", [0, 1])
def test_given_up_what_a_returning_client_could_have_had(story: Story, missed: int) -> None:
    story.connect()
    story.leave()
    story.connect(f"user/e/{missed}", since="user/e/0", recovered=False)
    assert story.broken() == [Guarantee.GIVEN_UP]


def test_given_up_what_an_open_socket_could_have_had(story: Story) -> None:
    story.connect()
    story.gap("user/e/1")
    assert story.broken() == [Guarantee.GIVEN_UP]


def test_not_given_up_messages_that_the_stream_no_longer_had(story: Story) -> None:
    """Behind a loss a stream may go on before its newest message."""
    story.connect()
    for number in (1, 2, 3):
        story.send(number, f"user/e/{number}")
    story.gap("user/e/1")
    for number in (2, 3):
        story.get(number, f"user/e/{number}")
    assert story.broken() == []


# No wrong order


def test_order_two_messages_on_one_socket(story: Story) -> None:
    story.connect()
    story.send(1, "user/e/1")
    story.send(2, "user/e/2")
    story.gap("user/e/2")
    story.send(3, "user/e/3")
    story.get(3, "user/e/3")
    story.get(1, "user/e/1", applied=False)
    assert story.broken() == [Guarantee.ORDER]


def test_order_a_client_applies_an_older_one(story: Story) -> None:
    story.connect("user/e/5")
    story.send_vainly(1, Unknown)
    story.get(1, "user/e/4")
    assert story.broken() == [Guarantee.ORDER]


def test_order_a_later_message_got_the_earlier_offset(story: Story) -> None:
    story.connect()
    story.send(1, None)
    story.send(2, None)
    story.get(2, "user/e/1")
    story.get(1, "user/e/2")
    assert story.broken() == [Guarantee.ORDER]


def test_order_restarts_after_a_gap_frame(story: Story) -> None:
    """RabbitMQ delivers again what a Redis that lost its data had taken."""
    story.connect()
    story.send(1, None)
    story.send(2, None)
    story.get(2, "user/e/1")
    story.gap("user/f/0")
    story.get(1, "user/f/1")
    assert story.broken() == []


def test_order_is_not_known_of_a_message_with_unknown_outcome(story: Story) -> None:
    story.connect()
    story.send_vainly(1, Unknown)
    story.send(2, "user/e/1")
    story.get(2, "user/e/1")
    story.get(1, "user/e/2")
    assert story.broken() == []


# No message applied twice


def test_twice_one_id_after_an_announcement(story: Story) -> None:
    story.connect()
    story.send(1, "user/e/1")
    story.get(1, "user/e/1")
    story.leave()
    story.connect("user/f/0", since="user/e/1", recovered=False)
    story.get(1, "user/e/1")
    assert story.broken() == [Guarantee.TWICE]


def test_twice_one_message_under_two_ids(story: Story) -> None:
    story.connect()
    story.send(1, None)
    story.get(1, "user/e/1")
    story.get(1, "user/e/2")
    assert story.broken() == [Guarantee.TWICE]


def test_twice_one_id_on_one_socket(story: Story) -> None:
    story.connect()
    story.send(1, "user/e/1")
    story.get(1, "user/e/1")
    story.get(1, "user/e/1", applied=False)
    assert story.broken() == [Guarantee.TWICE]


def test_twice_an_id_is_given_out_again(story: Story) -> None:
    """A Redis that came back with older data counts the same offsets once more."""
    story.connect()
    story.send(1, "user/e/1")
    story.get(1, "user/e/1")
    story.send(2, "user/e/1")
    assert Guarantee.TWICE in story.broken()


def test_twice_is_right_when_redis_has_lost_the_first_and_that_was_told(story: Story) -> None:
    """With its data Redis loses the idempotency key; RabbitMQ delivers the event again."""
    story.connect()
    story.send(1, None)
    story.get(1, "user/e/1")
    story.gap("user/f/0")
    story.get(1, "user/f/1")
    assert story.broken() == []


def test_twice_is_right_on_another_socket_when_the_client_drops_it(story: Story) -> None:
    story.connect()
    story.send(1, "user/e/1")
    story.get(1, "user/e/1")
    story.leave()
    story.connect("user/e/1", since="user/e/0", recovered=True)
    story.get(1, "user/e/1", applied=False)
    assert (story.broken(), story.verdict.dropped) == ([], 1)


# No message to whom it is not for


def test_stranger_another_user_s_message(story: Story) -> None:
    story.connect()
    story.connect("user/b/0", client="bobs", connection="i1.y")
    story.send(1, "user/e/1")
    story.get(1, "user/e/1")
    story.get(1, "user/b/1", client="bobs")
    assert story.broken() == [Guarantee.STRANGER]


def test_stranger_a_topic_s_message_without_a_subscription(story: Story) -> None:
    story.connect()
    story.subscribe("topic:tea/t/0")
    story.unsubscribe()
    story.send(1, "topic:tea/t/1", stream=TEA)
    story.get(1, "topic:tea/t/1")
    assert story.broken() == [Guarantee.STRANGER]


def test_stranger_a_topic_s_message_on_a_new_socket_before_it_subscribes(story: Story) -> None:
    story.connect()
    story.subscribe("topic:tea/t/0")
    story.leave()
    story.send(1, "topic:tea/t/1", stream=TEA)
    story.connect(since="user/e/0", recovered=True)
    story.get(1, "topic:tea/t/1")
    assert story.broken() == [Guarantee.STRANGER]


@pytest.mark.parametrize("sent", [True, False])
def test_stranger_a_message_that_was_never_sent(story: Story, sent: bool) -> None:
    story.connect()
    if sent:
        story.send_vainly(1, Refused)
    story.get(1, "user/e/1")
    assert story.broken() == [Guarantee.STRANGER]


def test_no_stranger_a_topic_s_message_to_its_subscriber(story: Story) -> None:
    story.connect()
    story.subscribe("topic:tea/t/0")
    story.unsubscribe()
    story.send(1, "topic:tea/t/1", stream=TEA)
    story.subscribe("topic:tea/t/1", since="topic:tea/t/0", recovered=True)
    story.get(1, "topic:tea/t/1")
    assert (story.broken(), story.verdict.recovered) == ([], 1)


# The index


def test_index_names_a_connection_of_a_dead_process(story: Story) -> None:
    story.connect()
    story.leave()
    story.die("i1-process")
    story.connect(connection="i2.x", since="user/e/0", recovered=True)
    story.tick(ALLOWANCE)
    story.index("i1.whose-hello-never-came", "i2.x", leases=("i2#1",))
    assert story.broken() == [Guarantee.INDEX]


def test_index_names_the_lease_of_a_dead_process(story: Story) -> None:
    story.connect()
    story.leave()
    story.die("i1-process")
    story.connect(connection="i2.x", since="user/e/0", recovered=True)
    story.tick(ALLOWANCE)
    story.index("i2.x", leases=("i1#1", "i2#1"))
    assert story.broken() == [Guarantee.INDEX]


def test_index_names_two_generations_of_one_process(story: Story) -> None:
    story.connect()
    story.tick(ALLOWANCE)
    story.index("i1.x", leases=("i1#1", "i1#2"))
    assert story.broken() == [Guarantee.INDEX]


def test_index_names_a_connection_that_has_left(story: Story) -> None:
    story.connect()
    story.leave()
    story.connect(connection="i1.y", since="user/e/0", recovered=True)
    story.tick(ALLOWANCE)
    story.index("i1.x", "i1.y")
    assert story.broken() == [Guarantee.INDEX]


def test_index_lacks_an_open_connection(story: Story) -> None:
    story.connect()
    story.tick(ALLOWANCE)
    story.index()
    story.index()
    assert story.broken() == [Guarantee.INDEX]


def test_index_may_be_wrong_within_the_lease_and_during_faults(story: Story) -> None:
    story.connect()
    story.leave()
    story.die("i1-process")
    story.connect(connection="i2.x", since="user/e/0", recovered=True)
    wrong = Indexed(at=0, leases=["i1#1", "i2#1"], connections=["i1.x"])
    story.records.append(replace(wrong, at=story.tick()))
    story.records.append(Broke(at=story.tick(), fault=1, what="redis frozen"))
    story.records.append(replace(wrong, at=story.tick(60)))
    story.records.append(Healed(at=story.tick(), fault=1))
    story.records.append(replace(wrong, at=story.tick()))
    assert story.broken() == []
    story.records.append(replace(wrong, at=story.tick(ALLOWANCE)))
    assert set(story.broken()) == {Guarantee.INDEX}


# Health


def test_health_an_instance_does_not_get_ready_again(story: Story) -> None:
    story.records.append(Sick(at=story.tick(), process="a2", reason="mesh: lost"))
    assert story.broken() == [Guarantee.HEALTH]


# The file


def test_a_history_is_read_as_it_was_written(story: Story, tmp_path: Path) -> None:
    story.connect()
    story.subscribe("topic:a/b/t/0")
    story.send(1, None)
    story.send_vainly(2, Refused)
    story.records.append(Broke(at=story.tick(), fault=1, what="redis frozen"))
    story.records.append(Healed(at=story.tick(), fault=1))
    story.index("i1.x")
    story.gap("user/f/3")
    story.die("i1-process")
    story.leave()
    history = History(tmp_path / "history.jsonl")
    for record in story.records:
        history.add(record)
    history.close()
    with history.path.open(encoding="utf-8") as lines:
        assert read(lines) == history.records == story.records
