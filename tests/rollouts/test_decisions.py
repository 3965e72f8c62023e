"""What a rollout decides before it acts and what it remembers after, by value and by property."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops_platform.changes.builds import Build, newest_build, note_build
from ops_platform.changes.record import ChangeRecord
from ops_platform.rollouts.admission import refusals
from ops_platform.rollouts.capacity import GIB, claims, faults
from ops_platform.rollouts.journal import Journal, Journals, JournalUnreadable, Release, Underway
from ops_platform.rollouts.prune import superfluous

IMAGE = "r/web@sha256:" + "a" * 64
NOW = datetime(2026, 11, 24, 3, 15, tzinfo=UTC)
GOOD: dict[str, Any] = {"healthcheck": {"test": ["CMD", "true"]}, "volumes": [{"type": "bind", "source": "/x"}]}


def service(cpus: float, memory: int, replicas: int = 1, reserved: float = 0) -> dict[str, Any]:
    limits = {"cpus": cpus, "memory": str(memory)}
    return {"deploy": {"replicas": replicas, "resources": {"limits": limits, "reservations": {"cpus": reserved}}}}


class TestAdmission:
    def test_a_good_service(self) -> None:
        assert refusals({"services": {"web": GOOD}}, "web", IMAGE, None) == []

    def test_every_reason_at_once(self) -> None:
        bad = {
            "container_name": "web",
            "ports": [{"target": 80, "published": "8080"}, {"target": 81}],
            "volumes": [{"type": "volume", "source": "data"}, {"type": "volume", "source": "x", "read_only": True}],
            "network_mode": "host",
        }
        found = refusals({"services": {"web": bad}}, "web", "web:latest", None)
        signs = (
            "not named by digest",
            "no health check",
            "container_name",
            "port 8080",
            "volume data",
            "host's network",
        )
        assert len(found) == len(signs)
        assert all(sign in reason for sign, reason in zip(signs, found, strict=True))

    @pytest.mark.parametrize("check", [None, {}, {"disable": True, "test": ["CMD", "x"]}, {"test": ["NONE"]}])
    def test_what_is_no_health_check(self, check: dict[str, Any] | None) -> None:
        [reason] = refusals({"services": {"web": {**GOOD, "healthcheck": check}}}, "web", IMAGE, None)
        assert "has no health check" in reason

    def test_an_unknown_service_is_told_what_there_is(self) -> None:
        assert refusals({"services": {"b": {}, "a": {}}}, "web", IMAGE, None) == [
            "the compose file has no service web; it has a, b"
        ]


class TestCapacity:
    def test_a_surge_needs_memory_and_promised_cores_only(self) -> None:
        found = claims({"services": {"db": service(2, GIB), "web": service(2, GIB // 2, 2, reserved=0.5)}})
        assert faults(found, 6, 2, None) == []
        assert faults(found, 6, 2, "web") == [
            "memory limits sum to 2.50 GiB with one more replica of web, the machine has 2"
        ]
        assert faults(found, 6, 2.5, "web") == []
        assert faults(found, 5.5, 2.5, None) == ["CPU limits sum to 6.00 cores, the machine has 5.5"]

    def test_promised_cores(self) -> None:
        found = claims({"services": {"web": service(1, GIB, 2, reserved=1.0)}})
        assert faults(found, 2, 4, None) == []
        assert faults(found, 2, 4, "web") == [
            "CPU reservations sum to 3.00 cores with one more replica of web, the machine has 2"
        ]

    def test_a_missing_limit_is_a_fault(self) -> None:
        assert faults(claims({"services": {"web": {}}}), 2, 4) == ["web has no memory limit", "web has no CPU limit"]

    @given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 64), st.integers(1, 3)), min_size=1, max_size=6))
    def test_what_fits_with_a_surge_fits_without(self, sizes: list[tuple[int, int, int]]) -> None:
        services = {f"s{i}": service(cpus / 4, mem * GIB // 16, n) for i, (cpus, mem, n) in enumerate(sizes)}
        found = claims({"services": services})
        for surge in services:
            if not faults(found, 8, 8, surge):
                assert not faults(found, 8, 8)


def release(number: int) -> Release:
    return Release(image=f"r/web@sha256:{number:064x}", config=f"web@{number}.json", at=NOW + timedelta(hours=number))


class TestJournal:
    def test_going_back_forgets_what_came_after(self) -> None:
        journal = Journal()
        for number in (1, 2, 3):
            journal = journal.with_release(release(number), keep=3)
        assert (journal.current, journal.previous) == (release(3), release(2))
        back = journal.with_release(release(2), keep=3)
        assert back.releases == (release(2), release(1))

    @given(st.lists(st.integers(0, 5), max_size=12), st.integers(2, 4))
    def test_the_newest_serves_and_at_most_so_many_are_kept(self, numbers: list[int], keep: int) -> None:
        journal = Journal()
        for number in numbers:
            journal = journal.with_release(release(number), keep)
            assert journal.current == release(number)
            assert len(journal.releases) <= keep
            assert len({known.config for known in journal.releases}) == len(journal.releases)

    def test_it_is_read_as_written_and_files_of_no_release_go(self, tmp_path: Path) -> None:
        journals = Journals(tmp_path / "new")
        kept = journals.freeze("web", "{}", NOW)
        gone = journals.freeze("web", "{}", NOW + timedelta(seconds=1))
        other = journals.freeze("web-two", "{}", NOW)
        assert kept.stat().st_mode & 0o777 == 0o600
        known = Release(image=IMAGE, config=kept.name, at=NOW)
        under = Underway(image=IMAGE, began=NOW, before=known, count=2, good_hashes=("h",))
        journals.write("web", Journal(releases=(known,), underway=under))
        assert gone.exists()  # a rollout that is under way may need it
        assert journals.read("web").underway == under
        journals.write("web", Journal(releases=(known,)))
        assert (kept.exists(), gone.exists(), other.exists()) == (True, False, True)
        assert journals.read("nobody") == Journal()

    def test_one_that_cannot_be_read_is_not_taken_for_none(self, tmp_path: Path) -> None:
        (tmp_path / "web.json").write_text("{")
        with pytest.raises(JournalUnreadable, match="restore it, or remove it"):
            Journals(tmp_path).read("web")


@given(st.dictionaries(st.integers(0, 9).map(str), st.integers(0, 3).map(str)), st.sets(st.integers(0, 9).map(str)))
def test_pruning_never_takes_a_kept_image(images: dict[str, str], kept: set[str]) -> None:
    gone = superfluous(images, kept)
    assert not {images[reference] for reference in gone} & {images[r] for r in kept if r in images}
    assert set(images) - set(gone) <= {r for r in images if images[r] in {images[k] for k in kept if k in images}}


class TestBuilds:
    def test_the_newest_is_the_last_noted(self, tmp_path: Path) -> None:
        assert newest_build(tmp_path, "web") is None
        for revision in ("one", "two"):
            note_build(tmp_path, "web", Build(image=IMAGE, revision=revision, inputs="i", at=NOW))
        found = newest_build(tmp_path, "web")
        assert found is not None
        assert found.revision == "two"

    def test_a_damaged_note_is_no_build(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "web.json").write_text('{"image": 1')
        assert newest_build(tmp_path, "web") is None


def test_a_record_has_the_house_form() -> None:
    record = ChangeRecord(
        what="rollout of web",
        outcome="rolled out",
        began=NOW,
        ended=NOW + timedelta(seconds=12.5),
        summary="web from a to b",
        why="",
        impact="none",
        dollars_a_month=Decimal("-1.5"),
        cost="One machine less.",
        plan=("start", "stop"),
        rollback=(),
        watch=("errors",),
        thresholds=("5 %",),
        measured=(("whole", "12.5 s"),),
    )
    assert record.key("p") == "p/changes/2026/11/20261124T031500Z-rollout-of-web.md"
    text = record.markdown()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# rollout of web: rolled out",
        "## Change summary",
        "## Implementation plan",
        "## Rollback plan",
        "## Monitoring",
        "### Metrics to watch",
        "### Alert thresholds",
        "## Measured",
    ]
    assert "- Why: not given" in text
    assert "- Cost impact: -1.50 $ a month. One machine less." in text
    assert "1. start\n2. stop" in text
    assert "| whole | 12.5 s |" in text
