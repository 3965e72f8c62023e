"""Real servers for every test, and stacks that describe them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from ops_platform.stack import Secret, Server, Stack, parse_stack
from ops_platform.systems.object_store import ObjectStore
from ops_platform.systems.throwaway.postgres import PostgresServer
from ops_platform.systems.throwaway.redis import RedisServer
from ops_platform.systems.throwaway.s3 import S3Server
from tests.docker_engine import Engine, NoDockerEngine, docker_engine
from tests.stand_ins import Registry, have_base_images

ON_AN_ENGINE = ("tests/rollouts/", "tests/infrastructure/", "tests/backups/test_containers.py")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
DRILLS = Path("/var/tmp/ops_platform/test-drills") / WORKER  # where a server that is not root can be
FAST = {"fsync": "off", "full_page_writes": "off", "max_locks_per_transaction": "256"}


@pytest.fixture(scope="session")
def area() -> Iterator[Path]:
    """A directory that a server which is not root can reach."""
    path = Path(tempfile.mkdtemp(prefix="ops-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(area: Path) -> Iterator[PostgresServer]:
    with PostgresServer(area / "postgres", settings=FAST) as server:
        yield server


@pytest.fixture(scope="session")
def redis(area: Path) -> Iterator[RedisServer]:
    with RedisServer(area / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def s3(area: Path) -> Iterator[S3Server]:
    with S3Server(area / "s3") as server:
        server.create_bucket("backups")
        yield server


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        with docker_engine() as running:
            yield running
    except NoDockerEngine as reason:
        if os.environ.get("CI"):
            pytest.fail(str(reason))
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def images_engine(engine: Engine) -> Engine:
    """The engine, with the base images that Dockerfiles name."""
    with tempfile.TemporaryDirectory(prefix="ops-images-") as directory:
        have_base_images(engine, Path(directory))
    return engine


@pytest.fixture(scope="module")
def swarm(images_engine: Engine) -> Iterator[Engine]:
    """The engine as a swarm of one."""
    ours = images_engine.docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive"
    if ours:
        images_engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    yield images_engine
    if ours:
        images_engine.docker("swarm", "leave", "--force")


@pytest.fixture(scope="session")
def registry(area: Path) -> Iterator[Registry]:
    with Registry(area / "registry") as running:
        yield running


class OneEngine(LoadScopeScheduling):  # type: ignore[misc]  # it is untyped
    """One Docker Engine at a time: two on one machine share its firewall and its ports. The rest runs beside it.

    By place rather than by pytest-xdist's groups, which write to a field that pytest 9.2 no longer has.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "engine" if nodeid.startswith(ON_AN_ENGINE) else "servers"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return OneEngine(config, log)


FIGURES: list[str] = []  # what tests measured, for the end of their report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Where workers run the tests, their figures come with the reports to the process that tells them."""
    if WORKER == "alone" and report.when == "teardown":
        FIGURES.extend(str(value) for name, value in report.user_properties if name == "figure")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    if call.when == "teardown" and WORKER != "alone":
        item.user_properties.extend(("figure", figure) for figure in FIGURES)
        FIGURES.clear()
    yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(FIGURES))


StackOf = Callable[..., Stack]


@pytest.fixture
def stack_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresServer,
    redis: RedisServer,
    s3: S3Server,
) -> StackOf:
    """A stack over the session's servers with a prefix of its own; keyword arguments replace pieces of YAML."""
    secrets = {
        "TEST_PG": postgres.password,
        "TEST_REDIS": redis.password,
        "TEST_AK": s3.access_key,
        "TEST_SK": s3.secret_key,
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    def build(
        *,
        postgres_server: PostgresServer = postgres,
        redis_server: RedisServer = redis,
        endpoint: str = s3.endpoint,
        bucket: str = "backups",
        databases: str = "{}",
        extra: str = "",
    ) -> Stack:
        prefix = "t/" + os.path.relpath(tmp_path, tmp_path.parent.parent).replace("[", "-").replace("]", "-")
        return parse_stack(
            f"""
servers:
  pg: {{url: "{postgres_server.url}", password: {{env: TEST_PG}}, client_tools: "{postgres_server.bin}"}}
  cache: {{url: "{redis_server.url}", password: {{env: TEST_REDIS}}}}
databases: {databases}
redis:
  cache: {{server: cache}}
bucket:
  name: {bucket}
  endpoint: "{endpoint}"
  prefix: "{prefix}"
  access_key: {{env: TEST_AK}}
  secret_key: {{env: TEST_SK}}
{extra}
""",
            "test stack",
            tmp_path,
        )

    return build


@pytest.fixture(scope="session", autouse=True)
def _drills_directory() -> Iterator[None]:
    yield
    shutil.rmtree(DRILLS, ignore_errors=True)


def with_drills(stack: Stack, tmp_path: Path, **changes: object) -> Stack:
    """`stack` with a directory of its own for drills, and other changes of their section."""
    drills = stack.drills.model_copy(update={"directory": DRILLS / tmp_path.parent.name / tmp_path.name, **changes})
    return stack.model_copy(update={"drills": drills})


def with_server(stack: Stack, name: str, server: PostgresServer | RedisServer, patch: pytest.MonkeyPatch) -> Stack:
    """`stack` with one more server, which `server` is."""
    patch.setenv(f"TEST_{name.upper()}", server.password)
    secret = Secret(env=f"TEST_{name.upper()}")
    tools = str(server.bin) if isinstance(server, PostgresServer) else None
    entry = Server(url=server.url, password=secret, client_tools=tools)
    return stack.model_copy(update={"servers": {**stack.servers, name: entry}})


def quiet(_: object) -> None:
    """A `say` and a `report` for tests that look at results only."""


def keys(store: ObjectStore, prefix: str) -> list[str]:
    return [item.key for item in store.list(prefix)]
