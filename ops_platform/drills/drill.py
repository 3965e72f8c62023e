"""One restore drill from choosing a backup to its report: a failure of any part is a failed drill, never a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ops_platform.backups.catalog import Backup, mark_drilled, read_catalog
from ops_platform.backups.choice import NEWEST, Choice, choose
from ops_platform.backups.layout import report_key
from ops_platform.backups.manifest import PostgresFacts
from ops_platform.backups.placing import place_database
from ops_platform.backups.reloading import now_ms, reload_snapshot
from ops_platform.backups.retrieval import Retrieval, check_objects
from ops_platform.backups.verification import Finding
from ops_platform.drills.figures import figure
from ops_platform.drills.findings import ASSERTION, POSTGRES_CHECKS, REDIS_CHECKS, could_not_run
from ops_platform.drills.proof import prove_database, prove_instance
from ops_platform.drills.quarters import Quarters, quarters, sweep
from ops_platform.drills.report import Drill, write_report
from ops_platform.drills.servers import DrillServer, throw_away
from ops_platform.stack import Stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.progress import Clock, Meter, Report, telling
from ops_platform.systems.redis import Redis

Say = Callable[[str], None]
COPY = "copy"


class UnknownCheck(ValueError):
    """A check was asked for that there is not; the message says which there are."""


@dataclass(frozen=True)
class Request:
    """What a drill is to do: which backup, which checks (all when empty), until when its server is kept (aware)."""

    choice: Choice = NEWEST
    checks: tuple[str, ...] = ()
    keep_until: datetime | None = None

    def __post_init__(self) -> None:
        if self.keep_until is not None and self.keep_until.tzinfo is None:
            raise ValueError(f"{self.keep_until} has no time zone: write it as 2026-11-23T18:00:00Z")


@dataclass
class _Course:
    """What is known of a drill so far, whatever happens next."""

    clock: Clock = field(default_factory=Clock)
    findings: dict[str, Finding] = field(default_factory=dict)
    server: str = "none was started"
    kept: str | None = None

    def add(self, finding: Finding) -> None:
        self.findings[finding.check] = finding


def checks_of(stack: Stack, name: str) -> Mapping[str, str]:
    """The checks of a drill of `name`, with what each says."""
    if name in stack.redis:
        return REDIS_CHECKS
    its = stack.databases[name].assertions
    return {
        **POSTGRES_CHECKS,
        **{f"{ASSERTION}{key}": f"On the copy this is true: {sql}" for key, sql in its.items()},
    }


def run_drill(
    stack: Stack,
    name: str,
    store: ObjectStore,
    request: Request,
    identities: tuple[str, ...],
    say: Say,
    report: Report,
) -> Drill:
    """Restore a backup of `name` on a throw-away server and hold it against its manifest.

    Marks the backup as drilled when every check ran and passed. Raises UnknownCheck, NoSuchBackup, StoreError and
    NoQuarters, for then there was no drill; whatever goes wrong later is a finding.
    """
    begun = datetime.now(UTC)
    every = checks_of(stack, name)
    unknown = sorted(set(request.checks) - set(every))
    if unknown:
        raise UnknownCheck(f"{name} has no check {unknown[0]!r}: there are {', '.join(every)}")
    sweep(stack.drills.directory, begun, say)
    course = _Course()
    catalog = read_catalog(store, stack.bucket.prefix, name)
    backup = choose(name, catalog.backups, request.choice)
    course.clock.lap("find")
    say(f"{name}: drilling backup {backup.path.id}, taken {backup.manifest.taken_at:%Y-%m-%d %H:%M:%S %Z}")
    meter = Meter(f"drill of {name}", backup.manifest.raw_bytes)
    deadline = time.monotonic() + stack.drills.deadline.total_seconds()
    retrieval = Retrieval(store, backup, identities, deadline, meter, say)
    with quarters(stack.drills.directory) as held:
        if request.keep_until is not None:
            held.note.kept_until = request.keep_until.isoformat()
            held.write_note()
        try:
            with telling(meter, report):
                _restore_and_prove(stack, name, retrieval, held, request, course)
        except Exception as error:  # whatever it was, the drill has failed, and says so
            held.note.kept_until = None
            why = "\n".join([str(error) or repr(error), *getattr(error, "__notes__", ())])
            course.add(Finding("restored", (why,)))
    for check in every:
        if request.checks and check not in request.checks:
            course.add(could_not_run(check, "it was left out when the drill was started"))
        elif check not in course.findings:
            course.add(could_not_run(check, "the drill broke off before it"))
    return _concluded(name, backup, begun, course, [b.manifest.taken_at for b in catalog.backups], every, store)


def _restore_and_prove(
    stack: Stack, name: str, retrieval: Retrieval, held: Quarters, request: Request, course: _Course
) -> None:
    facts = retrieval.backup.manifest.source
    own = stack.servers[stack.server_of(name)]
    check_objects(retrieval)
    lifetime_s = stack.drills.deadline.total_seconds()
    if request.keep_until is not None:
        lifetime_s = max(lifetime_s, (request.keep_until - datetime.now(UTC)).total_seconds())
    with throw_away(own, facts, held, stack.drills, lifetime_s) as started:
        course.server = started.described
        course.clock.lap("start")
        retrieval.say(f"{name}: restoring on {started.described}")
        if isinstance(facts, PostgresFacts):
            placed = place_database(started.server, COPY, retrieval)
            course.clock.laps.update(placed.seconds)
            course.clock.lap("_")
            course.add(Finding("restored", (), {"bytes": retrieval.backup.manifest.raw_bytes}))
            for finding in prove_database(started.server, COPY, facts, stack.databases[name].assertions, retrieval):
                course.add(finding)
        else:
            horizon_ms = now_ms() + int(stack.drills.deadline / timedelta(milliseconds=1))
            reloaded = reload_snapshot(Redis(started.server), retrieval, horizon_ms)
            course.clock.lap("load")
            course.add(Finding("restored", (), {"bytes": retrieval.backup.manifest.raw_bytes}))
            for finding in prove_instance(started.server, facts, reloaded, horizon_ms, retrieval.left_s()):
                course.add(finding)
        course.clock.lap("verify")
        if request.keep_until is not None:
            course.kept = _how_to_reach(started, request.keep_until)


def _how_to_reach(started: DrillServer, until: datetime) -> str:
    server = started.server
    inside = f"in container {server.container}" if server.container else ""
    secret = f", its password in {server.password.file}" if server.password else ""
    return f"kept until {until.isoformat()}: {server.url} {inside}{secret}"


def _concluded(
    name: str,
    backup: Backup,
    begun: datetime,
    course: _Course,
    others: list[datetime],
    every: Mapping[str, str],
    store: ObjectStore,
) -> Drill:
    source = backup.manifest.source
    things = source.tables if isinstance(source, PostgresFacts) else ()
    rows = sum(table.rows for table in things) if isinstance(source, PostgresFacts) else sum(source.keys.values())
    figures = figure(course.clock.laps, begun, backup.manifest.taken_at, others, backup.manifest.raw_bytes, rows)
    findings = tuple(course.findings[check] for check in every)
    key = report_key(backup.path.prefix, name, begun, backup.path.id)
    drill = Drill(name, backup, begun, findings, figures, course.server, course.kept, key)
    store.write(key, write_report(drill, every).encode(), "text/markdown; charset=utf-8")
    if drill.passed:
        mark_drilled(store, backup.path, begun, figures.rto_s)
    return drill
