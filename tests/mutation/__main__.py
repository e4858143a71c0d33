"""`python -m tests.mutation [--rooms realtime cluster] [--sample 25] [--seed 1]`

Prints each mutant that no test has noticed. One that changes nothing that a user could see goes to
`equivalent.txt`, as `<path> <mutant> # <reason>`; for the others a test is missing. It stops by
itself after `--seconds`, and exits with 1 if a room was not tried by then. The tests of a room are
traced once, which takes longer than a mutant.

With `TEST_REDIS_URL`, `TEST_AMQP_URL` and `TEST_DATABASE_URL` the tests run on these servers, else
on embedded engines. `mesh/rabbitmq` needs `TEST_AMQP_URL`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.mutation.run import ROOMS, Result, Workshop, try_room


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), choices=list(ROOMS))
    parser.add_argument("--sample", type=int, default=25, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="for all rooms")
    parser.add_argument("--at-least", type=int, default=0, help="per cent killed, for exit code 0")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bff-mutation-") as folder:
        workshop = Workshop(Path(folder))
        for room in options.rooms:
            for result in try_room(workshop, room, options.sample, options.seed, until):
                results.append(result)
                if result.verdict != "killed":
                    print(result, flush=True)
            print(summary(room, [one for one in results if one.room == room]), flush=True)
    print(summary("all rooms", results))
    untried = set(options.rooms) - {one.room for one in results}
    for room in sorted(untried):
        print(f"{room}: not tried")
    sys.exit(bool(untried) or share(results) < options.at_least)


def summary(title: str, results: list[Result]) -> str:
    """The number of each verdict, and the share that was noticed of what changes anything."""
    counts = Counter(one.verdict for one in results)
    numbers = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"{title}: {share(results):.0f} % killed ({numbers})"


def share(results: list[Result]) -> float:
    """Per cent killed of those that change anything."""
    matter = [one for one in results if one.verdict != "equivalent"]
    return 100 * sum(one.verdict in ("killed", "hung") for one in matter) / max(1, len(matter))


if __name__ == "__main__":
    main()
