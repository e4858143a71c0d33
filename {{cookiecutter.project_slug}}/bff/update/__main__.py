"""`python -m bff.update [TEMPLATE] [--checkout REF] [--force]`, in the project's folder."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from bff.update import git, template
from bff.update.errors import UpdateError
from bff.update.plan import Plan, Planner
from bff.update.record import PROJECT_JSON, Record, public_address, read
from bff.update.report import report
from bff.update.write import write


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address", metavar="[TEMPLATE]", default="")
@click.option("--checkout", default="", help="Branch, tag or commit; else the default branch.")
@click.option("--force", is_flag=True, help="Overwrite engine files that were edited by hand.")
def main(address: str, checkout: str, force: bool) -> None:
    """Bring a newer version of the template into this project.

    TEMPLATE is an address or a folder; without it, the one that the project was made from.
    """
    try:
        conflicts = update(Path.cwd(), address, checkout, force=force)
    except UpdateError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(1 if conflicts else 0)


def update(project: Path, address: str, checkout: str, *, force: bool) -> bool:
    """Update the project and print what was done; return whether there are conflicts to resolve.

    Raises:
        UpdateError: the update was refused or failed; nothing was changed.
    """
    old = read_record(project, "This project")
    template.check_is_installed()
    git.check_is_clean(project)
    source = address or old.template
    if not source:
        raise UpdateError(
            "The address of the template is not recorded, because the project was made from a "
            "local folder. Name it: make update TEMPLATE=../cookiecutter-fastapi-bff"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        fetched = template.fetch(source, checkout, Path(folder))
        answers = template.kept_answers(fetched, old.answers)
        fresh = template.bake(fetched, answers, old.year, Path(folder))
        new = read_record(fresh, "The template")
        origin = {"template": public_address(source) or old.template, "checkout": checkout}
        record = replace(new, data={**new.data, **origin})
        plan = Planner(project, old, fresh, new).make(git.tracked(project), record)
        changelog = fresh / "bff" / "CHANGELOG.md"
        text = changelog.read_text(encoding="utf-8") if changelog.is_file() else ""
    refuse_edited(plan, force=force)
    try:
        write(project, plan.changes)
    except OSError as error:
        raise UpdateError(f"The update failed and was undone: {error}") from error
    click.echo(report(plan, old, record, text))
    return bool(plan.conflicts)


def read_record(project: Path, whose: str) -> Record:
    """What `.bff/` of a project holds.

    Raises:
        UpdateError: it is not there or cannot be read.
    """
    try:
        return read(project)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UpdateError(
            f"{whose} has no .bff/{missing}, which an update needs. It is written when the "
            "project is made, by version 0.2.0 or later of the template, with hooks."
        ) from error
    except ValueError as error:
        raise UpdateError(f"{PROJECT_JSON} cannot be used: {error}") from error


def refuse_edited(plan: Plan, *, force: bool) -> None:
    """Keep changes to the engine from being lost unnoticed.

    Raises:
        UpdateError: files of the engine were changed by hand, and `force` is not given.
    """
    if plan.edited and not force:
        names = "\n".join(f"  {name} ({how})" for name, how in plan.edited.items())
        raise UpdateError(
            "These files belong to the engine and were changed by hand. An update would undo "
            f"your changes:\n{names}\nMove your changes to app/, or update with FORCE=1 "
            "(--force) to lose them. Nothing was changed."
        )


if __name__ == "__main__":
    main(prog_name="python -m bff.update")
