"""`ops rollout`: another image for a service, or the one before, without the UI."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ops_platform.cli_session import FAILED, Session, failing, say, store_of

if TYPE_CHECKING:
    from ops_platform.rollouts.attempt import Outcome


@click.command()
@click.argument("services", nargs=-1)
@click.option("--image", metavar="DIGEST", help="This image (repository@sha256:…); by default the newest good build.")
@click.option("--back", is_flag=True, help="To the release before the one that serves.")
@click.option("--why", default="", help="The reason, for the change record.")
@click.pass_obj
def rollout(session: Session, services: tuple[str, ...], image: str | None, back: bool, why: str) -> None:
    """Roll SERVICES out, by default all, one after the other: none loses a request, what fails is put back."""
    stack = session.stack()
    from ops_platform.rollouts.record import Recorder, image_for
    from ops_platform.rollouts.rollout import roll_out

    wanted = services or tuple(stack.rollouts.services)
    if image is not None and len(wanted) != 1:
        raise click.UsageError("--image is of one service: say of which")
    if not wanted or stack.engine is None:
        raise click.UsageError("stack.yaml rolls nothing out: see its sections engine and rollouts")
    found = []
    with failing(session):
        images = {service: image_for(stack, service, image, back) for service in wanted}  # refuse all before any
        for service in wanted:
            recorder = Recorder(stack, why, lambda: store_of(stack), say)
            outcome = roll_out(stack, service, images[service], say, recorder)
            found.append(_as_json(outcome, recorder.location))
            if not session.as_json:
                click.echo("\n".join(_verdict(outcome, recorder.location)))
    if session.as_json:
        session.tell(found, [])
    sys.exit(0 if all(each["good"] for each in found) else FAILED)


@click.command()
@click.pass_obj
def capacity(session: Session) -> None:
    """What compose.yaml's services may take at most, and whether that fits the machine of stack.yaml."""
    stack = session.stack()
    from ops_platform.rollouts.capacity import GIB, claims, faults
    from ops_platform.systems.compose import Compose

    if stack.engine is None or stack.machine is None:
        raise click.UsageError("stack.yaml has no section engine or machine: say what runs, and on what")
    with failing(session):
        found = claims(Compose(stack.engine.compose_file, stack.engine.project).resolved())
    machine = stack.machine
    each = [faults(found, machine.cpus, machine.memory_gb, s) for s in (*stack.rollouts.services, None)]
    said = list(dict.fromkeys(fault for faults_of_one in each for fault in faults_of_one))
    lines = [f"{c.service:<20} {c.cpus:5.2f} cores {c.memory / GIB:6.3f} GiB" for c in found]
    total = f"{sum(c.cpus for c in found):5.2f} cores {sum(c.memory for c in found) / GIB:6.3f} GiB"
    lines.append(f"{'all, at most':<20} {total} of {machine.cpus:g} cores and {machine.memory_gb:g} GiB")
    session.tell({"services": [vars(claim) for claim in found], "faults": said}, lines)
    for fault in said:
        say(fault)
    sys.exit(FAILED if said else 0)


def _verdict(outcome: Outcome, location: str) -> list[str]:
    sign = click.style(outcome.result, "green" if outcome.good else "red", bold=True)
    lines = [f"{outcome.service}: {sign} in {outcome.seconds:.1f} s: {outcome.image}"]
    lines += [f"  {timing.what:<8} {timing.seconds:6.1f} s  {timing.subject}" for timing in outcome.timings]
    if outcome.why_not:
        lines.append(f"  {outcome.why_not}")
    return [*lines, f"  change record: {location}"]


def _as_json(outcome: Outcome, location: str) -> dict[str, Any]:
    timings = [vars(timing) for timing in outcome.timings]
    derived = {"timings": timings, "seconds": outcome.seconds, "good": outcome.good}
    return {**vars(outcome), **derived, "change_record": location}
