"""The retention planner, by value and by property."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from random import Random

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


def test_exactly_seven_days_is_no_longer_younger() -> None:
    edge = NOW - timedelta(days=7)
    listed = [
        aged(0),
        Snapshot("edge", edge, False, 1),
        Snapshot("in", edge + timedelta.resolution, False, 1),
    ]
    assert list(kept(listed, RetentionPolicy(keep_verified=1))) == ["b0", "in"]


def test_nothing_to_plan_and_days_beyond_any_calendar() -> None:
    assert plan_retention([], RetentionPolicy(), NOW).verdicts == ()
    assert len(kept([aged(d) for d in range(9)], RetentionPolicy(days=10**12))) == 9


def test_old_verified_backups_are_guarded_when_newer_ones_failed_their_checks() -> None:
    old = [aged(d) for d in (30, 31, 32, 33)]
    fresh = [aged(d, verified=False) for d in (0, 1)]
    assert set(kept(old + fresh, RetentionPolicy())) == {"b0", "b1", "b30", "b31", "b32"}


def test_a_store_in_which_nothing_is_verified_is_not_emptied_by_age() -> None:
    plan = kept([aged(d, verified=False) for d in (20, 21, 22, 23)], RetentionPolicy())
    assert list(plan) == ["b20", "b21", "b22"]
    assert plan["b20"] == "one of the 3 newest (too few verified)"


def test_too_few_verified_keeps_those_and_the_newest_of_any_kind() -> None:
    listed = [*(aged(d, verified=False) for d in (20, 21, 22, 23)), aged(40)]
    assert kept(listed, RetentionPolicy()) == {
        "b20": "one of the 3 newest (too few verified)",
        "b21": "one of the 3 newest (too few verified)",
        "b22": "one of the 3 newest (too few verified)",
        "b40": "one of the 3 newest verified",
    }


def test_daily_takes_the_newest_of_each_utc_day_and_passes_over_days_without_one() -> None:
    ages = [10, 10.1, 10.5, 14, 15]  # 10.1 is the same UTC day as 10, 10.5 the day before
    plan = kept([aged(d) for d in ages], RetentionPolicy(keep_verified=1, daily=3))
    assert plan == {
        "b10": "one of the 1 newest verified; newest of its day",
        "b10.5": "newest of its day",
        "b14": "newest of its day",
    }


def test_a_week_is_an_iso_week_across_new_year() -> None:
    now = datetime(2027, 3, 1, tzinfo=UTC)
    at = {"thu": datetime(2026, 12, 31, tzinfo=UTC), "fri": datetime(2027, 1, 1, tzinfo=UTC)}  # both 2026-W53
    at["mon"] = datetime(2027, 1, 4, tzinfo=UTC)
    listed = [Snapshot(id, taken_at, True, 1) for id, taken_at in at.items()]
    plan = plan_retention(listed, RetentionPolicy(keep_verified=1, weekly=3), now)
    assert [v.snapshot.id for v in plan.kept] == ["mon", "fri"]


def test_the_same_month_of_two_years_is_two_months() -> None:
    assert list(kept([aged(10), aged(375)], RetentionPolicy(keep_verified=1, monthly=2))) == ["b10", "b375"]


def test_of_two_taken_at_once_the_higher_id_is_newer() -> None:
    pair = [aged(9, id="a"), aged(9, id="b")]
    for listed in (pair, pair[::-1]):
        assert list(kept(listed, RetentionPolicy(keep_verified=1))) == ["b"]


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
    plan = kept([aged(-1, verified=False), aged(9)], RetentionPolicy(days=1, keep_verified=1))
    assert plan == {"b-1": "taken in the future: clock wrong?", "b9": "one of the 1 newest verified"}


@pytest.mark.parametrize("field", ["days", "keep_verified", "daily", "weekly", "monthly"])
def test_a_policy_below_its_least_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"retention.{field} is -1"):
        RetentionPolicy(**{field: -1})


@pytest.mark.parametrize("field", ["days", "keep_verified"])
def test_no_days_and_no_guard_are_refused_too(field: str) -> None:
    with pytest.raises(ValueError, match=f"retention.{field} is 0: must be at least 1"):
        RetentionPolicy(**{field: 0})


@pytest.mark.parametrize("at", [NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=-5)))])
def test_naive_and_foreign_times_are_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match="convert it with"):
        Snapshot("x", at, True, 1)
    with pytest.raises(ValueError, match="convert it with"):
        plan_retention([], RetentionPolicy(), at)


def test_an_id_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        plan_retention([aged(1), aged(2, id="b1")], RetentionPolicy(), NOW)


snapshots = st.lists(
    st.builds(
        Snapshot,
        id=st.integers(0, 10_000).map(lambda n: f"id{n}"),
        taken_at=(st.integers(-8, 24) | st.integers(-8, 3200)).map(lambda n: NOW - timedelta(hours=6 * n)),
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
    listed: list[Snapshot], policy: RetentionPolicy, random: Random
) -> None:
    plan = plan_retention(listed, policy, NOW)
    shuffled = list(listed)
    random.shuffle(shuffled)
    assert plan_retention(shuffled, policy, NOW) == plan
    assert sorted(v.snapshot.id for v in plan.verdicts) == sorted(s.id for s in listed)
    assert {v.snapshot.id for v in plan.kept}.isdisjoint(v.snapshot.id for v in plan.deleted)


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


def test_backups_from_the_future_take_nobodys_place() -> None:
    future = [aged(-days) for days in (1, 2, 3)]
    assert {"b30", "b31", "b32"} <= set(kept([*future, aged(30), aged(31), aged(32)], RetentionPolicy()))
