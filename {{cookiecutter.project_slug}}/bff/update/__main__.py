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
@click.option("--checkout", default="", help="Branch, tag or commit. Default: the default branch.")
@click.option("--force", is_flag=True, help="Overwrite engine files that you have edited.")
def main(address: str, checkout: str, force: bool) -> None:
    """Apply a newer version of the template to this project.

    TEMPLATE is a URL or a folder. Default: the template that the project was generated from.
    """
    try:
        conflicts = update(Path.cwd(), address, checkout, force=force)
    except UpdateError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(1 if conflicts else 0)


def update(project: Path, address: str, checkout: str, *, force: bool) -> bool:
    """Update the project and print a report. Returns whether there are merge conflicts.

    Raises:
        UpdateError: the update was refused or failed; nothing was changed.
    """
    old = read_record(project, "This project")
    template.check_is_installed()
    git.check_is_clean(project)
    source = address or old.template
    if not source:
        raise UpdateError(
            "The template's URL is not recorded, because the project was generated from a local "
            "folder. Pass it: make update TEMPLATE=../cookiecutter-fastapi-bff"
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
    """Read the record in `.bff/` of a project.

    Raises:
        UpdateError: it is missing or cannot be read.
    """
    try:
        return read(project)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UpdateError(
            f"{whose} has no .bff/{missing}, which an update needs. Version 0.2.0 or later of the "
            "template writes it when a project is generated with hooks enabled."
        ) from error
    except ValueError as error:
        raise UpdateError(f"{PROJECT_JSON} is invalid: {error}") from error


def refuse_edited(plan: Plan, *, force: bool) -> None:
    """Protect the user's changes to engine files.

    Raises:
        UpdateError: engine files were edited, and `force` is not set.
    """
    if plan.edited and not force:
        names = "\n".join(f"  {name} ({how})" for name, how in plan.edited.items())
        raise UpdateError(
            "You have edited files of the engine. An update would overwrite your changes:\n"
            f"{names}\nMove your changes to app/, or discard them with FORCE=1 (--force). "
            "Nothing was changed."
        )


if __name__ == "__main__":
    main(prog_name="python -m bff.update")
