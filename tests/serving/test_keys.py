"""keys: whose a request is, and what is left of a minute."""

import asyncio
import pickle
from pathlib import Path

import pytest

from raystill.errors import RecipeError, StorageError
from raystill.serving import keys
from raystill.serving.keys import Allowance, Key

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(f"alice: {{key: {ALICE}, requests_per_minute: 3}}\nbob: {{key: {BOB}}}\n")
    return path


def test_each_key_has_a_name_and_its_limits(file: Path) -> None:
    found = keys.known("from-the-environment", str(file))
    assert [key.name for key in found] == [keys.KEY, "alice", "bob"]
    assert [key.requests_per_minute for key in found] == [None, 3, None]
    holder = keys.holder(f"Bearer {ALICE}".encode(), found)
    assert holder is not None and holder.name == "alice"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {ALICE}", ALICE, f"Bearer {ALICE} ", "Bearer \xff"]
)
def test_any_other_header_is_nobodys(file: Path, header: str) -> None:
    assert keys.holder(header.encode("latin-1"), keys.known(None, str(file))) is None


def test_a_key_is_kept_as_its_digest_alone(file: Path) -> None:
    kept = pickle.dumps(keys.known("sk-environment-0123456", str(file)))
    assert not any(key.encode() in kept for key in (ALICE, BOB, "sk-environment-0123456"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alice: {key: short-1234}", "alice.key"),
        ("alice: {key: sk-secret-0123456789, request_per_minute: 3}", "alice.request_per_minute"),
        ("alice: {key: sk-secret-0123456789, tokens_per_minute: 0}", "alice.tokens_per_minute"),
        ("alice: sk-secret-0123456789", "alice"),
        ("a b: {key: sk-secret-0123456789}", "a b"),
        ("a: {key: sk-secret-0123456789}\nb: {key: sk-secret-0123456789}", "one key twice"),
        ("{}", "no key"),
        ("", "write lines like"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_explained_without_its_keys(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(RecipeError) as raised:
        keys.known(None, str(tmp_path / "keys.yaml"))
    assert says in str(raised.value)
    assert "secret" not in str(raised.value) and "short-1234" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"keys\.yaml"):
        keys.known(None, str(tmp_path / "keys.yaml"))


def test_requests_pass_until_the_minute_is_used_up() -> None:
    async def go() -> None:
        left = Allowance(Key("k", b"", requests_per_minute=3))
        assert [left.wait_s() for _ in range(3)] == [0, 0, 0]
        assert 15 < left.wait_s() <= 20

    asyncio.run(go())


def test_tokens_go_into_debt_which_is_waited_for() -> None:
    async def go() -> None:
        left = Allowance(Key("k", b"", tokens_per_minute=600))
        assert left.wait_s() == 0
        left.used(900)
        assert 30 < left.wait_s() <= 30.2

    asyncio.run(go())


def test_a_key_without_limits_never_waits() -> None:
    async def go() -> None:
        left = Allowance(Key("k", b""))
        left.used(1e9)
        assert left.wait_s() == 0

    asyncio.run(go())
