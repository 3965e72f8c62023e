"""`ops`: what there is, is it sound, back it up, bring it back, prove it; for the day when Dagster is not there.

Exit codes: 0 all went well; 1 something failed, or a check did not pass; 2 the command or stack.yaml is wrong.
What was asked for goes to standard output, progress and messages to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops_platform.cli_rollouts import capacity, rollout
from ops_platform.cli_session import FAILED, Session, failing, say, store_of

if TYPE_CHECKING:
    from ops_platform.backups.catalog import Backup
    from ops_platform.backups.choice import Choice
    from ops_platform.stack import Stack
    from ops_platform.systems.object_store import ObjectStore
    from ops_platform.systems.progress import Progress


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--stack", "stack_file", type=click.Path(path_type=Path), help="stack.yaml; by default OPS_STACK's.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_context
def main(context: click.Context, stack_file: Path | None, as_json: bool) -> None:
    """Back up, restore and prove what stack.yaml describes."""
    for ended in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was begun is cleared away
        if signal.getsignal(ended) is not signal.SIG_IGN:  # nohup
            signal.signal(ended, signal.default_int_handler)
    if stack_file is not None:
        # A rollout's hook, which may be `ops`, then means the same stack.
        os.environ["OPS_STACK"] = str(stack_file)
    context.obj = Session(as_json)


@main.command()
@click.pass_obj
def doctor(session: Session) -> None:
    """Try every connection, permission, version and clock of stack.yaml."""
    stack = session.stack()
    from ops_platform.doctor import examine

    signs = {"ok": click.style("ok", "green"), "warning": click.style("warning", "yellow")}
    found = []
    for diagnosis in examine(stack):
        found.append(vars(diagnosis))
        if not session.as_json:
            sign = signs.get(diagnosis.verdict, click.style("failed", "red", bold=True))
            click.echo(f"{sign}  {diagnosis.what}: {diagnosis.said}")
    if session.as_json:
        session.tell(found, [])
    sys.exit(FAILED if any(each["verdict"] == "failed" for each in found) else 0)


@main.command()
@click.argument("names", nargs=-1)
@click.pass_obj
def backups(session: Session, names: tuple[str, ...]) -> None:
    """List the backups of NAMES, by default all: age, size, proved or not."""
    stack = session.stack()
    from ops_platform.backups.catalog import read_catalog

    found: list[dict[str, Any]] = []
    lines = []
    with failing(session):
        store = store_of(stack)
        for name in chosen(stack, names):
            catalog = read_catalog(store, stack.bucket.prefix, name)
            found += [described(name, backup) for backup in catalog.backups]
            for fault in catalog.unreadable:
                say(fault)
            if not catalog.backups:
                say(f"{name}: there is no backup")
    for each in found:
        age = f"{each['age_hours']:.1f} h old"
        size = f"{each['stored_bytes'] / 1e6:,.1f} MB"
        lines.append(f"{each['name']:<20} {each['id']}  {age:>14}  {size:>14}  {each['proved']}")
    session.tell(found, lines)


def described(name: str, backup: Backup) -> dict[str, Any]:
    """What `ops backups` says of one."""
    manifest = backup.manifest
    return {
        "name": name,
        "id": backup.path.id,
        "taken_at": manifest.taken_at.isoformat(),
        "age_hours": round((datetime.now(UTC) - manifest.taken_at).total_seconds() / 3600, 2),
        "raw_bytes": manifest.raw_bytes,
        "stored_bytes": manifest.stored_bytes,
        "encrypted": manifest.encryption is not None,
        "proved": "restored in a drill" if backup.drilled else "read back" if backup.verified else "not proved",
    }


@main.command()
@click.argument("names", nargs=-1)
@click.pass_obj
def backup(session: Session, names: tuple[str, ...]) -> None:
    """Back up NAMES, by default all, and read each backup back. Deletes none: the nightly job does."""
    stack = session.stack()
    from ops_platform.backups.backup import take_backup
    from ops_platform.backups.verification import verify_and_mark

    found = []
    sound = True
    with failing(session):
        store = store_of(stack)
        for name in chosen(stack, names):
            with progress_bar(name) as report:
                taken = take_backup(stack, name, store, say, report).backup
            findings = verify_and_mark(store, taken)
            for finding in findings:
                sound = sound and finding.passed
                for fault in finding.faults:
                    say(f"{finding.check}: {fault}")
            found.append({**described(name, taken), "proved": all(f.passed for f in findings) and "read back"})
    session.tell(found, [f"{each['name']}: {each['id']}, {each['stored_bytes']:,} bytes stored" for each in found])
    sys.exit(0 if sound else FAILED)


def which_backup(command: Callable[..., None]) -> Callable[..., None]:
    """The options with which a backup is chosen and opened."""
    options = [
        click.option("--backup", "id", metavar="ID", help="This backup; by default the newest."),
        click.option("--before", metavar="TIME", help="The newest taken before this time (2026-11-23T03:00:00Z)."),
        click.option(
            "--identity",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="An age key file; by default stack.yaml's encryption.identity.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("name")
@which_backup
@click.option("--as", "database", metavar="DATABASE", help="Restore as this new database.")
@click.option("--on", "server", metavar="SERVER", help="On this server of stack.yaml; by default where it was.")
@click.option("--over", metavar="NAME", help="Replace what lives: type its name; a backup of it is taken first.")
@click.pass_obj
def restore(
    session: Session,
    name: str,
    id: str | None,
    before: str | None,
    identity: Path | None,
    database: str | None,
    server: str | None,
    over: str | None,
) -> None:
    """Restore a backup of NAME beside what lives, or over it."""
    stack = session.stack()
    from ops_platform.backups.placing import drop_statement
    from ops_platform.backups.restore import Target, restore_backup

    [name] = chosen(stack, (name,))
    choice = choice_of(id, before)
    target = Target(server=server, database=database, over=over)
    with failing(session), progress_bar(name) as report:
        store, keys = store_of(stack), identities(stack, identity)
        restored = restore_backup(stack, name, store, choice, target, keys, say, report)
    placed = restored.placed
    seconds = sum(placed.seconds.values())
    lines = [f"{name}: {restored.backup.path.id} restored to {restored.where} in {seconds:.1f} s"]
    if placed.replaced is not None:
        lines.append(f"what was there is kept as {placed.replaced}; to let it go: {drop_statement(placed.replaced)}")
    found = {
        "name": name,
        "backup": restored.backup.path.id,
        "where": restored.where,
        "seconds": dict(placed.seconds),
        "roles_created": placed.roles,
        "replaced": placed.replaced,
        "backup_of_what_was_there": restored.fresh.path.id if restored.fresh else None,
    }
    session.tell(found, lines)


@main.command()
@click.argument("names", nargs=-1)
@which_backup
@click.option("--check", "checks", multiple=True, help="Only this check (may be repeated); the backup is not marked.")
@click.option("--keep-until", metavar="TIME", help="Leave the throw-away server running until then.")
@click.pass_obj
def drill(
    session: Session,
    names: tuple[str, ...],
    id: str | None,
    before: str | None,
    identity: Path | None,
    checks: tuple[str, ...],
    keep_until: str | None,
) -> None:
    """Prove that backups of NAMES, by default all, restore: on throw-away servers, held against their manifests."""
    stack = session.stack()
    from ops_platform.drills.drill import Request, run_drill
    from ops_platform.times import parse_time

    wanted = chosen(stack, names)
    if id is not None and len(wanted) != 1:
        raise click.UsageError("--backup names one backup: say of which NAME")
    try:
        request = Request(choice_of(id, before), checks, parse_time("--keep-until", keep_until))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    found = []
    lines: list[str] = []
    with failing(session):
        store, keys = store_of(stack), identities(stack, identity)
        for name in wanted:
            with progress_bar(f"drill of {name}") as report:
                result = run_drill(stack, name, store, request, keys, say, report)
            lines += _verdict(result, store)
            found.append(_drill_as_json(result, store))
    session.tell(found, lines)
    sys.exit(0 if all(each["passed"] for each in found) else FAILED)


def _verdict(result: Any, store: ObjectStore) -> list[str]:
    from ops_platform.drills.report import duration

    figures = result.figures
    sign = click.style("PASSED", "green", bold=True) if result.passed else click.style("FAILED", "red", bold=True)
    lines = [
        f"{result.name}: {sign}: {result.backup.path.id} restored and proved in {duration(figures.rto_s)};"
        f" it was {duration(figures.rpo_s)} old"
    ]
    for finding in result.findings:
        shown = "passed" if finding.passed else f"failed: {finding.faults[0]}"
        lines.append(f"  {finding.check:<24} {shown}")
    if result.kept:
        lines.append(f"  the server is {result.kept}")
    return [*lines, f"  report: {store.uri(result.report_key)}"]


def _drill_as_json(result: Any, store: ObjectStore) -> dict[str, Any]:
    return {
        "name": result.name,
        "backup": result.backup.path.id,
        "passed": result.passed,
        "checks": {f.check: {"passed": f.passed, "faults": f.faults, **f.numbers} for f in result.findings},
        "figures": vars(result.figures),
        "server": result.kept or result.server,
        "report": store.uri(result.report_key),
    }


def choice_of(id: str | None, before: str | None) -> Choice:
    """The backup that is asked for. Ends the command with 2 when that has no meaning."""
    from ops_platform.backups.choice import Choice
    from ops_platform.times import parse_time

    try:
        return Choice(id, parse_time("--before", before))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def chosen(stack: Stack, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that are asked for, all when none. Ends the command with 2 for one that stack.yaml has not."""
    every = (*stack.databases, *stack.redis)
    for name in names:
        if name not in every:
            raise click.UsageError(f"stack.yaml has nothing called {name!r}: there are {', '.join(every)}")
    return names or every


def identities(stack: Stack, file: Path | None) -> tuple[str, ...]:
    """The private keys in `file`, else those that stack.yaml names. Raises SecretMissing."""
    from ops_platform.backups.retrieval import identities_of, parse_identities

    return parse_identities(file.read_text(encoding="utf-8")) if file else identities_of(stack.encryption)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error where a person looks, else nothing."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=1.0, now="")

        def report(progress: Progress) -> None:
            bars.update(task, completed=progress.share, now=str(progress))

        yield report


main.add_command(rollout)
main.add_command(capacity)


if __name__ == "__main__":
    main()
