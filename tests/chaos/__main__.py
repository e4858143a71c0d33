"""`make chaos ARGS="--seed 7 --seconds 60"`."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos import report
from tests.chaos.checker import check
from tests.chaos.deployment import PROJECT, STREAM_LENGTH, Clock, Shape
from tests.chaos.history import History
from tests.chaos.plan import RedisKind
from tests.chaos.run import ALLOWANCE, run
from tests.servers.server import ServerError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=click.IntRange(0), help="Determines the faults. Default: random.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(5, 86_400))
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="For the history and the logs. Default: a new temporary folder.",
)
@click.option(
    "--project",
    default=PROJECT,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="The project whose deployment is used. Default: the template's.",
)
@click.option(
    "--redis",
    default=RedisKind.SERVER.value,
    show_default=True,
    type=click.Choice([kind.value for kind in RedisKind]),
    help="One server, a cluster of three nodes, or a master and a replica under Sentinel.",
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Of each instance."
)
def main(
    seed: int | None,
    seconds: float,
    folder: Path | None,
    project: Path,
    redis: str,
    workers: int,
) -> None:
    """Inject faults into a deployment for some time, and check what its clients receive.

    Exits with 1 if a guarantee was violated, with 2 if the deployment could not start.
    """
    seed = random.randrange(10_000) if seed is None else seed
    folder = folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    history = History(folder / "history.jsonl")
    arguments = f"--seed {seed} --seconds {seconds:g} --redis {redis} --workers {workers}"
    click.echo(f"{arguments}; history and logs in {folder}")
    shape = Shape(RedisKind(redis), workers)
    logging.disable()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stopped = ""
    try:
        asyncio.run(run(project, seed, seconds, history, folder / "logs", Clock(), shape))
    except* ServerError as errors:
        stopped = str(errors.exceptions[0])
    except* KeyboardInterrupt:
        stopped = "Interrupted"
    finally:
        history.close()
    if stopped:
        click.echo(stopped, err=True)
        sys.exit(2)
    verdict = check(history.records, allowance=ALLOWANCE, max_stream_length=STREAM_LENGTH)
    click.echo(report.text(history.records, verdict))
    if verdict.violations:
        click.echo(f'Again: make chaos ARGS="{arguments}"')
        sys.exit(1)


if __name__ == "__main__":
    main()
