"""serve, with all that a recipe may say of who answers: real engines, asked as a user would, and what was kept prepared."""

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from raystill import pipeline, recipe_file, session
from raystill.artifacts import Checkpoint, Manifest, Table, commit, write_part
from raystill.context import Context
from raystill.recipe import Compute, Data, Recipe
from raystill.records import Message, Prompt
from raystill.stages import prepare, serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
HELLO = [{"role": "user", "content": "Where is order 10482? I am ann@example.com."}]
EXPORTED_S = 60.0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return recipe_file.of(
        {
            "name": "routed",
            "task": {"parse": {"choices": ["refund", "delivery"]}},
            "data": {"train": "prompts.jsonl"},
            "teacher": {"model": "teacher"},
            "student": {"model": "student"},
            "prices": {"machine_hour": 3.6},
            "serve": {
                "compare": True,
                "canary": {"student": 0.5},
                "fallback": {"check": False, "below": 0.999},
                "capture": {"to": str(tmp_path_factory.mktemp("captured"))},
            },
        }
    )


@pytest.fixture(scope="module")
def endpoint(recipe: Recipe, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Endpoint]:
    scratch = tmp_path_factory.mktemp("scratch")
    url = str(scratch / "prompts")
    row = Prompt("1", None, [Message("user", "where?")], None, "own", "x", "train", "delivery", "{}")
    prompts = Manifest("prompts", 1, "prepare", 1, "f" * 12, {}, {}, [write_part(url, "train", Prompt, [row])])
    made = {"prepare": commit(Table, url, prompts).url}
    student = shutil.copytree(tiny_model, scratch / "student")
    models = {"teacher": Checkpoint(str(tiny_model), "teacher"), "student": Checkpoint(str(student), "student")}
    with session.ray_session(Compute()) as ensure:
        ensure()
        context = Context("", Compute(), Lines(io.StringIO()), 0.05, scratch)
        routing = pipeline.routing(recipe, models)
        with serve.serve(models, recipe.serve, context, port=0, run=made, routing=routing) as served:
            yield served


def test_one_endpoint_compares_deals_falls_back_and_keeps(
    endpoint: serve.Endpoint, recipe: Recipe, tmp_path: Path
) -> None:
    client = OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none", max_retries=0)
    assert {model.id for model in client.models.list()} == {"auto", "teacher", "student"}
    asked: dict[str, Any] = {"model": "auto", "messages": HELLO, "max_tokens": 6}

    # Both arms, and a user stays; the student's answers are all too unsure, so the teacher gives them.
    for stream in (False, True):
        for user in [f"user {i}" for i in range(6)]:
            answers = client.chat.completions.create(**asked, user=user, stream=stream)
            assert {piece.model for piece in (answers if stream else [answers])} == {"teacher"}
    stats = httpx.get(f"{endpoint.base_url}/v1/routing").json()
    answered = {name: arm.get("answered", 0) for name, arm in stats["arms"].items()}
    assert sum(answered.values()) == 12 and all(n % 2 == 0 for n in answered.values())
    assert stats["fallback"]["probability"] == stats["fallback"]["answers"] == answered["student"] > 0
    assert stats["fallback"]["share"] == 1.0

    body = {"messages": HELLO, "max_tokens": 6, "temperature": 0}
    compared = httpx.post(f"{endpoint.base_url}/v1/compare", json=body, timeout=60).json()
    left, right = compared["answers"]
    assert {left["model"], right["model"]} == {"teacher", "student"}
    assert left["text"] == right["text"]  # the same weights
    assert left["output_tokens"] == 6 and left["prompt_tokens"] > 10
    assert left["cost"] == pytest.approx(left["machine_s"] * 3.6 / 3600)
    assert compared["agreement_by"] == "task"
    assert 0 < left["ttft_s"] <= left["elapsed_s"]

    for headers in ({}, {"X-Raystill-Consent": "yes"}):
        client.chat.completions.create(**asked, extra_headers=headers)
    folder = Path(recipe.serve.capture.to)  # type: ignore[union-attr]
    _until(lambda: list(folder.iterdir()))
    (file,) = folder.iterdir()
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert row["messages"][0]["content"] == "Where is order 10482? I am [EMAIL]."
    context = Context(str(tmp_path), Compute(), Lines(io.StringIO()), 0.0, tmp_path)
    assert prepare.prepare(Data(train=str(folder)), "own", context).counts["rows"]["train"] == 1

    def exported() -> bool:
        page = httpx.get(f"{endpoint.base_url}/metrics").text
        arms = re.findall(r'raystill_arm_requests_total\{.*model_name="(\w+)".*outcome="answered"', page)
        return set(arms) == {"teacher", "student"} and "raystill_fallback_answers_total{" in page

    _until(exported)


def _until(there: Any) -> None:
    until = time.monotonic() + EXPORTED_S
    while not there():
        assert time.monotonic() < until
        time.sleep(0.2)
