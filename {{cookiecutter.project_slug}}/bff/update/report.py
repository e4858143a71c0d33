"""The report that an update prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bff.update.changelog import to_do
from bff.update.plan import Plan
from bff.update.record import Record


def report(plan: Plan, old: Record, new: Record, changelog: str) -> str:
    """What was changed, and what the user must do next."""
    if not plan.changes:
        return f"Nothing to update: the project is at version {new.version} of the template."
    return "\n".join(_lines(plan, old, new, changelog))


def _lines(plan: Plan, old: Record, new: Record, changelog: str) -> Iterator[str]:
    written = [name for name, file in plan.changes.items() if file and not name.startswith(".bff/")]
    removed = [name for name, file in plan.changes.items() if not file]
    yield (
        f"Updated from version {old.version} to {new.version}: "
        f"{len(written)} files written, {len(removed)} removed."
    )
    yield from _list("Engine files that you had edited, now overwritten:", plan.edited)
    answers = {name: value for name, value in new.answers.items() if value != old.answers.get(name)}
    yield from _list(
        "New questions of the template, answered with their defaults:",
        [f"{name} = {value}" for name, value in answers.items()],
    )
    yield from _list(
        "Files that the template no longer has, kept because you changed them:", plan.kept
    )
    for version, text in to_do(changelog, old.version, new.version).items():
        yield f"\nFor version {version} you must:\n{text}"
    yield from _list("Merge conflicts, marked with <<<<<<<, for you to resolve:", plan.conflicts)
    yield "\nNext:"
    if plan.stale_locks:
        yield f"  make lock      # you have edited {', '.join(plan.stale_locks)}"
    if plan.stale_locks or plan.new_locks:
        yield "  make install   # dependencies changed"
    yield "  git diff       # review the changes"
    yield "  make test      # then commit"


def _list(title: str, names: Iterable[str]) -> Iterator[str]:
    lines = [f"  {name}" for name in names]
    if lines:
        yield f"\n{title}"
        yield from lines
