"""Measures the template beside its peers."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine, report
from benchmarks.contestants import CONTESTANTS, Contestant, Stage
from benchmarks.measures import MEASURES
from benchmarks.parameters import FULL, QUICK, Parameters
from benchmarks.processes import BenchError
from benchmarks.results import Results
from scripts.bake import ROOT


def main() -> None:
    options = _options()
    parameters = QUICK if options.quick else FULL
    if options.rounds:
        parameters = replace(parameters, rounds=options.rounds)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stage = Stage()
    os.sched_setaffinity(0, stage.cores.client)
    results = Results(parameters)
    chosen = [one(stage) for one in CONTESTANTS if one.name in options.only]
    begun = time.monotonic()
    written: list[Path] = []
    try:
        for number in range(parameters.rounds):
            _round(number, chosen, options.measure, parameters, results)
        if options.publish:
            written = report.publish(results, chosen, machine.facts(stage))
    except KeyboardInterrupt:
        print("\nStopped.")
    finally:
        os.sched_setaffinity(0, stage.cores.all)
        stage.close()
    print(f"\n{time.monotonic() - begun:.0f} s\n")
    print(report.table(results, chosen))
    print(report.bars(results))
    for path in written:
        print(f"Written: {path.relative_to(ROOT)}")


def _round(
    number: int,
    chosen: list[Contestant],
    measures: list[str],
    parameters: Parameters,
    results: Results,
) -> None:
    """Every measure over every candidate; each round begins with another one."""
    turn = number % len(chosen)
    for name in measures:
        for contestant in chosen[turn:] + chosen[:turn]:
            if name not in contestant.measures or results.has_failed(contestant.name, name):
                continue
            print(f"round {number + 1}: {name:<9} {contestant.name:<16}", end="", flush=True)
            try:
                figures = MEASURES[name](contestant, parameters)
            except (BenchError, OSError) as error:
                print(f" failed: {error}")
                results.fail(contestant.name, name, str(error))
            else:
                print(" ".join(f"{key} {value:,.4g}" for key, value in figures.items()))
                results.add(contestant.name, figures)


def _options() -> argparse.Namespace:
    names = [one.name for one in CONTESTANTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in four minutes")
    parser.add_argument("--only", type=_some_of(names), default=names, help=",".join(names))
    parser.add_argument(
        "--measure", type=_some_of([*MEASURES]), default=[*MEASURES], help=",".join(MEASURES)
    )
    parser.add_argument("--rounds", type=int, help="instead of the parameters'")
    parser.add_argument("--publish", action="store_true", help="write docs/benchmarks.md")
    return parser.parse_args()


def _some_of(names: list[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(names):
            raise argparse.ArgumentTypeError(f"no such: {', '.join(sorted(unknown))}")
        return [name for name in names if name in chosen]

    return parse


if __name__ == "__main__":
    main()
