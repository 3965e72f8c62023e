"""What a rollout decides before it acts and what it remembers after, by value and by property."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ops_platform.changes.builds import Build, newest_build, note_build
from ops_platform.changes.record import ChangeRecord
from ops_platform.deployment import Registry
from ops_platform.rollouts.admission import Refused, foreign, refusals
from ops_platform.rollouts.capacity import GIB, claims, faults
from ops_platform.rollouts.journal import Journal, Journals, JournalUnreadable, Release, Underway
from ops_platform.rollouts.prune import kept_images, superfluous
from ops_platform.rollouts.record import image_for
from ops_platform.rollouts.released import with_release
from ops_platform.stack import Secret, Stack, parse_stack
from ops_platform.systems.engine import LocalImage, by_digest
from ops_platform.systems.proxy import open_connections

IMAGE = "r/web@sha256:" + "a" * 64
NOW = datetime(2026, 11, 24, 3, 15, tzinfo=UTC)
CONFIG = {"type": "bind", "source": "/etc/web", "read_only": True}
GOOD: dict[str, Any] = {"healthcheck": {"test": ["CMD", "true"]}, "volumes": [CONFIG]}


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

    def test_a_directory_of_the_host_is_refused_unless_it_is_read_only(self) -> None:
        mount = {"type": "bind", "source": "/srv/uploads", "target": "/data"}
        [reason] = refusals({"services": {"web": {**GOOD, "volumes": [mount]}}}, "web", IMAGE, None)
        assert "writes to bind /srv/uploads" in reason
        only_read = {**mount, "read_only": True}
        assert refusals({"services": {"web": {**GOOD, "volumes": [only_read]}}}, "web", IMAGE, None) == []

    @pytest.mark.parametrize(
        ("image", "ours"),
        [
            ("r/web@sha256:" + "a" * 64, True),
            ("r/web2@sha256:" + "a" * 64, False),
            ("evil.example/r/web@sha256:" + "a" * 64, False),
            ("r/web/other@sha256:" + "a" * 64, False),
        ],
    )
    def test_an_image_from_elsewhere_is_foreign(self, image: str, ours: bool) -> None:
        assert (foreign(image, "r/web") == []) == ours

    def test_a_login_goes_to_its_own_registry_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOKEN", "t")
        registry = Registry(repository="ghcr.io/me/stack", user="me", password=Secret(env="TOKEN"))
        assert registry.credentials_for("ghcr.io/me/stack/web@sha256:a") == {"username": "me", "password": "t"}
        for elsewhere in ("evil.example/web@sha256:a", "ghcr.io/me/stack-of-evil/web@sha256:a"):
            assert registry.credentials_for(elsewhere) is None

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

    def test_a_release_whose_compose_file_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(JournalUnreadable, match="restore it, or name the image"):
            Journals(tmp_path).read_config(release(1))


STACK = """
servers: {}
bucket: {name: unused, access_key: {env: NONE}, secret_key: {env: NONE}}
engine: {compose_file: compose.yaml, project: p}
registry: {repository: r}
images: {web: {context: ., probe: web}}
rollouts: {services: {web: {image: web}, worker: {image: web}}}
state_dir: state
"""
REFERENCES = st.frozensets(st.integers(0, 9).map("r/web@{}".format), max_size=3)


@given(
    st.dictionaries(st.integers(0, 5).map(str), REFERENCES, max_size=5),
    REFERENCES,
    st.frozensets(st.integers(0, 5).map(str)),
)
def test_what_is_kept_or_used_is_never_superfluous(
    found: dict[str, frozenset[str]], kept: frozenset[str], used: frozenset[str]
) -> None:
    images = [LocalImage(identity, tuple(sorted(references))) for identity, references in found.items()]
    gone = superfluous(images, kept, used)
    for image in images:
        assert (image in gone) == (image.id not in used and not kept & {image.id, *image.references})


def test_what_is_kept_is_of_all_services_and_the_newest_builds(tmp_path: Path) -> None:
    """Backend and worker run one image: a rollout of one must leave the other its way back."""
    stack = parse_stack(STACK, "test", tmp_path)
    journals = Journals(stack.state_dir / "rollouts")
    journals.write("web", Journal(releases=(release(4), release(3))))
    journals.write(
        "worker",
        Journal(
            releases=(release(2),),
            underway=Underway(image="sha256:x", began=NOW, before=release(1), count=1, good_hashes=()),
        ),
    )
    note_build(stack.state_dir, "web", Build(image=IMAGE, revision="r", inputs="i", at=NOW))
    assert kept_images(stack, journals) == {*(release(n).image for n in (1, 2, 3, 4)), "sha256:x", IMAGE}


class TestOverride:
    def test_a_release_joins_those_of_other_services(self) -> None:
        first = with_release("", "3.8", "web", "r/web@sha256:a", 2)
        assert first is not None
        both = with_release(first, "3.8", "worker", "r/web@sha256:b", 1)
        again = with_release(both or "", "3.8", "web", "r/web@sha256:c", 3)
        assert again is not None
        assert yaml.safe_load(again) == {
            "version": "3.8",
            "services": {
                "web": {"image": "r/web@sha256:c", "deploy": {"replicas": 3}},
                "worker": {"image": "r/web@sha256:b", "deploy": {"replicas": 1}},
            },
        }

    def test_a_file_of_somebody_else_is_not_written_over(self) -> None:
        assert with_release("services: {}\n", None, "web", IMAGE, 1) is None


class TestNewestBuild:
    """A release by hand or by a CI may be newer than the newest build here, which must not undo it unasked."""

    @pytest.fixture
    def stack(self, tmp_path: Path) -> Stack:
        stack = parse_stack(STACK, "test", tmp_path)
        note_build(stack.state_dir, "web", Build(image=IMAGE, revision="r", inputs="i", at=NOW))
        return stack

    def test_it_is_the_image(self, stack: Stack) -> None:
        assert image_for(stack, "web", None, False) == IMAGE
        Journals(stack.state_dir / "rollouts").write("web", Journal(releases=(release(-1),)))
        assert image_for(stack, "web", None, False) == IMAGE

    def test_one_older_than_what_serves_is_refused(self, stack: Stack) -> None:
        Journals(stack.state_dir / "rollouts").write("web", Journal(releases=(release(1), release(-1))))
        with pytest.raises(Refused, match=r"older than the release that serves .*: build again, or name the image"):
            image_for(stack, "web", None, False)
        assert image_for(stack, "web", IMAGE, False) == IMAGE
        assert image_for(stack, "web", None, True) is None

    def test_its_own_release_is_no_newer(self, stack: Stack) -> None:
        serves = Release(image=IMAGE, config="c", at=NOW + timedelta(hours=1))
        Journals(stack.state_dir / "rollouts").write("web", Journal(releases=(serves,)))
        assert image_for(stack, "web", None, False) == IMAGE


@pytest.mark.parametrize(
    ("reference", "plain"),
    [
        ("r/web:1@sha256:a", "r/web@sha256:a"),
        ("localhost:5000/web@sha256:a", "localhost:5000/web@sha256:a"),
        ("localhost:5000/web:1@sha256:a", "localhost:5000/web@sha256:a"),
        ("r/web:1", "r/web:1"),
        ("sha256:a", "sha256:a"),
    ],
)
def test_a_tag_beside_a_digest_says_nothing(reference: str, plain: str) -> None:
    assert by_digest(reference) == plain


def test_connections_to_a_replica_are_the_established_ones_to_its_port() -> None:
    """/proc/net/tcp and tcp6 as a little-endian machine writes them."""
    listing = """  sl  local_address rem_address   st tx_queue
   0: 0B00007F:9D5F 00000000:0000 0A 00000000:00000000
   1: 030012AC:B6F6 020012AC:1F40 01 00000000:00000000
   2: 030012AC:B6F8 020012AC:1F40 06 00000000:00000000
   3: 030012AC:B6FA 020012AC:1F41 01 00000000:00000000
   4: 030012AC:B6FC 040012AC:1F40 01 00000000:00000000
   5: 0000000000000000FFFF0000030012AC:B700 0000000000000000FFFF0000020012AC:1F40 01 00000000:00000000
"""
    assert open_connections(listing, ["172.18.0.2"], 8000) == 2
    assert open_connections(listing, ["172.18.0.2", "172.18.0.4"], 8000) == 3
    assert open_connections(listing, [], 8000) == 0


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
