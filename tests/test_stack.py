"""stack.yaml: what is refused says where, what was found and what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops_platform.stack import Schedule, Secret, SecretMissing, StackError, load_stack, parse_stack

GOOD = """
servers:
  pg: {url: "postgresql://backup@db.example:5432", password: {env: PG_PASSWORD}}
  cache: {url: "redis://127.0.0.1", container: redis}
databases: {market: {server: pg, database: investment_platform}}
redis: {cache: {server: cache}}
bucket: {name: my-backups, access_key: {env: AK}, secret_key: {file: secret}}
"""


def refused(text: str) -> str:
    with pytest.raises(StackError) as caught:
        parse_stack(text, "stack.yaml", Path("/base"))
    return str(caught.value)


def test_a_good_stack_has_its_defaults_and_paths_from_where_it_lies() -> None:
    stack = parse_stack(GOOD, "stack.yaml", Path("/base"))
    assert stack.retention.days == 7
    assert stack.state_dir == Path("/base/.ops")
    assert stack.bucket.secret_key.file == "/base/secret"
    assert stack.servers["cache"].kind == "redis"


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("server: pg,", "server: nope,", ["databases.market.server: 'nope'", "allowed: pg"]),
        ("server: pg,", "server: cache,", ["databases.market.server: 'cache' is not a postgres", "allowed: pg"]),
        ("redis: {cache:", "redis: {market:", ["redis.market: a database has this name too"]),
        ("name: my-backups", "nam: my-backups", ["bucket.nam: unknown key; allowed here:", "name"]),
        ("name: my-backups,", "", ["bucket.name: is missing"]),
        ("database: investment_platform", "database: 7", ["databases.market.database", "found 7"]),
        ("{env: AK}", "{env: AK, file: x}", ["bucket.access_key", "exactly one of"]),
        ("{env: AK}", "hunter2", ["bucket.access_key"]),
        ("backup@db", "backup:hunter2@db", ["servers.pg.url", "holds a password"]),
        ("postgresql://backup", "mysql://backup", ["servers.pg.url", "must start with"]),
        ("container: redis", "container: redis, client_tools: /x", ["servers.cache", "client_tools is for"]),
        ("redis: {cache", "retention: {days: 0}\nredis: {cache", ["retention.days", "found 0"]),
        (
            "redis: {cache",
            "schedules: {nightly_backup: {cron: 61 * * * *}}\nredis: {cache",
            ["schedules.nightly_backup.cron", "must be a cron line"],
        ),
        (
            "redis: {cache",
            'schedules: {nightly_backup: {cron: "0 3 * * *", time_zone: Mars/Base}}\nredis: {cache',
            ["schedules.nightly_backup.time_zone", "IANA", "Mars/Base"],
        ),
        ("redis: {cache", "encryption: {recipients: [ssh-rsa]}\nredis: {cache", ["encryption.recipients.0"]),
    ],
)
def test_what_is_wrong_is_named_by_its_path(old: str, new: str, parts: list[str]) -> None:
    assert old in GOOD
    message = refused(GOOD.replace(old, new, 1))
    assert all(part in message for part in ["stack.yaml", *parts]), message
    assert "hunter2" not in message


def test_what_is_no_mapping_or_no_yaml_is_refused() -> None:
    assert "must be a mapping with the keys" in refused("- a")
    assert "is not YAML" in refused("a: [")


def test_a_missing_file_says_which_variable_points_to_it(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="point OPS_STACK at"):
        load_stack(tmp_path / "none.yaml")


def test_secrets_come_from_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "one")
    assert Secret(env="A_SECRET").reveal() == "one"
    (tmp_path / "s").write_text("two\n")
    assert Secret(file=str(tmp_path / "s")).reveal() == "two"
    monkeypatch.delenv("A_SECRET")
    with pytest.raises(SecretMissing, match="A_SECRET is not set"):
        Secret(env="A_SECRET").reveal()
    with pytest.raises(SecretMissing, match="cannot be read"):
        Secret(file=str(tmp_path / "none")).reveal()


def test_the_longest_gap_of_a_schedule_knows_daylight_saving() -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    assert Schedule(cron="15 3 * * *").longest_gap(since) == timedelta(days=1)
    assert Schedule(cron="15 3 * * *", time_zone="America/New_York").longest_gap(since) == timedelta(hours=25)
    assert Schedule(cron="0 3 * * 1").longest_gap(since) == timedelta(days=7)


def test_the_repositorys_own_stack_is_good() -> None:
    assert load_stack(Path(__file__).parent.parent / "stack.yaml").databases.keys() == {"market"}
