"""fallback: what is good enough, what it saves, and a whole answer as a stream."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from raystill import client, recipe, tasks
from raystill.recipe import Fallback
from raystill.records import Message
from raystill.serving.fallback import KEPT, Judge, as_events

LABELS = tasks.load(recipe.Task(kind="own", parse=recipe.Parse(choices=["yes", "no"])), set())
ASKED = [Message("user", "Is it?")]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def answer(*texts: str, probabilities: Sequence[float] = (0.9,), **message: Any) -> dict[str, Any]:
    tokens = [{"token": "x", "logprob": math.log(p)} for p in probabilities]
    choices = [
        {"index": i, "message": {"role": "assistant", "content": said, **message}, "finish_reason": "stop",
         "logprobs": {"content": tokens} if tokens else None}
        for i, said in enumerate(texts)
    ]  # fmt: skip
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return {"id": "1", "created": 1, "model": "student", "choices": choices, "usage": usage}


@pytest.mark.parametrize(
    ("given", "config", "outcome"),
    [
        (answer("yes"), Fallback(below=0.8), KEPT),
        (answer("perhaps"), Fallback(below=0.8), "check"),
        (answer("perhaps"), Fallback(below=0.8, check=False), KEPT),
        (answer("yes", probabilities=(1.0, 0.5)), Fallback(below=0.8), "probability"),
        (answer("yes", probabilities=(1.0, 0.7)), Fallback(below=0.8), KEPT),
        (answer("yes", probabilities=()), Fallback(below=0.1), "probability"),
        (answer("yes", "perhaps"), Fallback(), "check"),
        (answer("", tool_calls=[CALL]), Fallback(below=0.8), KEPT),
    ],
)
def test_what_is_good_enough(given: dict[str, Any], config: Fallback, outcome: str) -> None:
    assert Judge(config, LABELS).outcome(ASKED, given) == outcome


def test_what_is_saved_is_the_teachers_time_for_all_less_what_both_took() -> None:
    judge = Judge(Fallback(), LABELS)
    assert judge.stats() == {"answers": 0, "share": None, "saved": None}
    for _ in range(3):
        judge.note(KEPT, 1.0, 0.0)
    assert judge.stats()["saved"] is None  # what the teacher takes is not known yet
    judge.note("check", 1.0, 10.0)
    assert judge.stats() == {"answers": 4, "kept": 3, "check": 1, "share": 0.25, "saved": 1 - 14 / 40}


def test_a_whole_answer_as_a_stream_reads_as_it_was() -> None:
    whole = answer("yes", tool_calls=[CALL], reasoning="well")
    chunks = [json.loads(event.removeprefix("data: ")) for event in as_events(whole, usage=True)]
    read = client.Partial()
    for chunk in chunks:
        read.add(chunk)
    reply = read.reply()
    assert (reply.text, reply.reasoning, reply.finish_reason, reply.output_tokens) == ("yes", "well", "stop", 2)
    assert json.loads(reply.tool_calls or "") == [CALL]
    assert reply.probability == pytest.approx(0.9)
    assert len(list(as_events(answer("yes", "no"), usage=False))) == 2
