"""The retention planner, by value and by property."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops_platform.backups.retention import RetentionPolicy, Snapshot, plan_retention

NOW = datetime(2026, 11, 23, 3, 15, tzinfo=UTC)


def aged(days: float, *, verified: bool = True, id: str | None = None) -> Snapshot:
    return Snapshot(id or f"b{days}", NOW - timedelta(days=days), verified, 100)


def kept(plan_of: list[Snapshot], policy: RetentionPolicy) -> dict[str, str]:
    return {verdict.snapshot.id: verdict.reason for verdict in plan_retention(plan_of, policy, NOW).kept}


def test_seven_days_by_default() -> None:
    plan = plan_retention([aged(d) for d in range(10)], RetentionPolicy(), NOW)
    assert [v.snapshot.id for v in plan.deleted] == ["b7", "b8", "b9"]
    assert plan.deleted[0].reason == "7 days old or older, and no rule keeps it"
    assert plan.kept[3].reason == "younger than 7 days"
    assert plan.kept[0].reason == "younger than 7 days; one of the 3 newest verified"
    assert plan.bytes_freed == 300


def test_old_verified_backups_are_guarded_when_newer_ones_failed_their_checks() -> None:
    old = [aged(d) for d in (30, 31, 32, 33)]
    fresh = [aged(d, verified=False) for d in (0, 1)]
    assert set(kept(old + fresh, RetentionPolicy())) == {"b0", "b1", "b30", "b31", "b32"}


def test_a_store_in_which_nothing_is_verified_is_not_emptied_by_age() -> None:
    plan = kept([aged(d, verified=False) for d in (20, 21, 22, 23)], RetentionPolicy())
    assert list(plan) == ["b20", "b21", "b22"]
    assert plan["b20"] == "one of the 3 newest, for too few are verified"


def test_daily_weekly_and_monthly_keeps_count_periods_that_have_a_backup() -> None:
    policy = RetentionPolicy(days=1, keep_verified=1, weekly=2, monthly=3)
    ages = [0, 1, 3, 20, 21, 60, 61, 120, 121]
    assert kept([aged(d) for d in ages], policy) == {
        "b0": "younger than 1 days; one of the 1 newest verified; newest of its week; newest of its month",
        "b1": "newest of its week",
        "b60": "newest of its month",
        "b120": "newest of its month",
    }


def test_a_backup_from_the_future_is_kept_and_says_why() -> None:
    assert kept([aged(-1)], RetentionPolicy(days=1))["b-1"].startswith("taken in the future")


@pytest.mark.parametrize("field", ["days", "keep_verified", "daily", "weekly", "monthly"])
def test_a_policy_below_its_least_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"retention.{field} is -1"):
        RetentionPolicy(**{field: -1})


@pytest.mark.parametrize("at", [NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=-5)))])
def test_naive_and_foreign_times_are_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match="convert it with"):
        Snapshot("x", at, True, 1)
    with pytest.raises(ValueError, match="convert it with"):
        plan_retention([], RetentionPolicy(), at)


def test_an_id_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        plan_retention([aged(1), aged(1)], RetentionPolicy(), NOW)


snapshots = st.lists(
    st.builds(
        Snapshot,
        id=st.integers(0, 10_000).map(lambda n: f"id{n}"),
        taken_at=st.integers(-48, 24 * 800).map(lambda hours: NOW - timedelta(hours=hours)),
        verified=st.booleans(),
        stored_bytes=st.integers(0, 10**12),
    ),
    max_size=40,
    unique_by=lambda snapshot: snapshot.id,
)
policies = st.builds(
    RetentionPolicy,
    days=st.integers(1, 60),
    keep_verified=st.integers(1, 6),
    daily=st.integers(0, 10),
    weekly=st.integers(0, 10),
    monthly=st.integers(0, 12),
)
quick = settings(max_examples=150, deadline=None)


@quick
@given(snapshots, policies)
def test_never_fewer_than_the_guarded_verified_and_never_an_empty_store(
    listed: list[Snapshot], policy: RetentionPolicy
) -> None:
    plan = plan_retention(listed, policy, NOW)
    verified = sum(snapshot.verified for snapshot in listed)
    assert sum(v.snapshot.verified for v in plan.kept) >= min(policy.keep_verified, verified)
    assert len(plan.kept) >= min(policy.keep_verified, len(listed))


@quick
@given(snapshots, policies, st.randoms(use_true_random=False))
def test_the_plan_is_the_same_whatever_the_order_and_knows_only_what_was_listed(
    listed: list[Snapshot], policy: RetentionPolicy, random: object
) -> None:
    plan = plan_retention(listed, policy, NOW)
    shuffled = list(listed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_retention(shuffled, policy, NOW) == plan
    assert sorted(v.snapshot.id for v in plan.verdicts) == sorted(s.id for s in listed)


@quick
@given(snapshots, policies)
def test_young_backups_stay_and_planning_again_deletes_nothing_more(
    listed: list[Snapshot], policy: RetentionPolicy
) -> None:
    plan = plan_retention(listed, policy, NOW)
    assert all(NOW - v.snapshot.taken_at >= timedelta(days=policy.days) for v in plan.deleted)
    assert not plan_retention([v.snapshot for v in plan.kept], policy, NOW).deleted


@quick
@given(snapshots, policies, policies)
def test_a_more_generous_policy_keeps_all_that_a_meaner_one_keeps(
    listed: list[Snapshot], one: RetentionPolicy, other: RetentionPolicy
) -> None:
    generous = RetentionPolicy(
        max(one.days, other.days),
        max(one.keep_verified, other.keep_verified),
        max(one.daily, other.daily),
        max(one.weekly, other.weekly),
        max(one.monthly, other.monthly),
    )
    mean = {v.snapshot.id for v in plan_retention(listed, one, NOW).kept}
    assert mean <= {v.snapshot.id for v in plan_retention(listed, generous, NOW).kept}
