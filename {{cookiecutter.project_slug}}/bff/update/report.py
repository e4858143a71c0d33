"""What an update says at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bff.update.changelog import to_do
from bff.update.plan import Plan
from bff.update.record import Record


def report(plan: Plan, old: Record, new: Record, changelog: str) -> str:
    """What was done, and what the user has to do now."""
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
    yield from _list("Engine files changed by hand, now overwritten:", plan.edited)
    answers = {name: value for name, value in new.answers.items() if value != old.answers.get(name)}
    yield from _list(
        "Questions of the template answered by their default:",
        [f"{name} = {value}" for name, value in answers.items()],
    )
    yield from _list(
        "You changed these files that the template no longer has; they stay:", plan.kept
    )
    for version, text in to_do(changelog, old.version, new.version).items():
        yield f"\nVersion {version} asks of you:\n{text}"
    yield from _list("Conflicts, marked with <<<<<<< in these files; resolve them:", plan.conflicts)
    yield "\nNext:"
    if plan.stale_locks:
        yield f"  make lock      # dependencies changed; {', '.join(plan.stale_locks)} is your own"
    if plan.stale_locks or plan.new_locks:
        yield "  make install   # dependencies changed"
    yield "  git diff       # see what changed"
    yield "  make test      # then commit"


def _list(title: str, names: Iterable[str]) -> Iterator[str]:
    lines = [f"  {name}" for name in names]
    if lines:
        yield f"\n{title}"
        yield from lines
