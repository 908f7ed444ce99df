"""What holds for every kind of task."""

import pickle

import pytest

from raystill import recipe, tasks
from raystill.records import Prompt

REFERENCES = {"nli": "neutral", "moderation": "unsafe", "math": "7"}
OWN = {"parse": {"regex": r"(\w+)$"}, "metrics": ["chrf", "accuracy", "macro_f1"]}


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_a_right_answer_is_right_by_every_metric_and_the_task_travels_to_workers(kind: str) -> None:
    reference = REFERENCES.get(kind, "a red rug came today")
    task = pickle.loads(
        pickle.dumps(tasks.load(recipe.Task.model_validate(OWN if kind == "own" else kind), {reference}))
    )
    prompt = Prompt("1", None, [], None, kind, "rows.jsonl:1", "test", reference, "{}")
    scored, measured = task.score(prompt, reference), task.measure([reference], [reference])
    names = tasks.metrics_of(task, [prompt])
    assert set(names) == {*scored, *measured} - {"refusals"}
    assert names[0] == ("accuracy" if "accuracy" in scored else next(iter(measured)))
    assert task.wanted(reference) == task.parse(reference)
    assert all(value == 1 for name, value in scored.items() if name != "refusals")
    for name, metric in measured.items():
        assert metric.point() == pytest.approx(100 if name in ("bleu", "chrf") else 1)
    assert task.check(prompt, reference) is None
    assert task.check(prompt, "") or kind == "conversation"
