"""canary: shares, sticky, and few move when they change."""

import collections

from raystill.serving.canary import arm

USERS = [f"user {i}" for i in range(5000)]


def test_shares_are_kept_and_a_user_stays() -> None:
    shares = {"teacher": 0.6, "student": 0.3, "small": 0.1}
    chosen = {user: arm(shares, user) for user in USERS}
    counts = collections.Counter(chosen.values())
    for name, share in shares.items():  # six standard deviations
        assert abs(counts[name] / len(USERS) - share) < 6 * (share * (1 - share) / len(USERS)) ** 0.5
    assert all(arm(dict(reversed(shares.items())), user) == chosen[user] for user in USERS)


def test_a_larger_share_takes_users_and_gives_none_away() -> None:
    before = {user: arm({"teacher": 0.9, "student": 0.1}, user) for user in USERS}
    after = {user: arm({"teacher": 0.7, "student": 0.3}, user) for user in USERS}
    assert all(after[user] == "student" for user, name in before.items() if name == "student")


def test_who_has_no_name_is_dealt_by_chance() -> None:
    chosen = collections.Counter(arm({"teacher": 0.5, "student": 0.5}, None) for _ in range(1000))
    assert 400 < chosen["student"] < 600
