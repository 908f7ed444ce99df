"""judge: a model reads stored answers and says which of two is better, or how good each is.

Two answers are shown in both orders, since judges favour a place. A reply that holds no verdict is asked for once more and
then counted, never guessed. Whatever the endpoint said is kept, so nothing is paid for twice by this step.
"""

import collections
import dataclasses
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from raystill import judging, recipe, storage
from raystill.artifacts import Outcome, Table, write_part
from raystill.asking import check, choose
from raystill.context import Context
from raystill.records import Answer, Generation, Prompt, Verdict
from raystill.teachers import paid

VERSION = 1


@dataclass(frozen=True)
class Case:
    """One judgement: a model's answer to a prompt, by itself or beside another's, shown first or second."""

    prompt: Prompt
    model: str
    text: str
    against: str | None = None
    other: str = ""
    first: bool = True

    @property
    def id(self) -> str:
        """Names it among those of its step."""
        return json.dumps([self.prompt.id, self.model, self.against, self.first])

    @property
    def equal(self) -> bool:
        """Whether there is nothing to tell apart."""
        return self.against is not None and self.text.split() == self.other.split()

    def asked(self, rubric: str, mark: str) -> Prompt:
        """It as a request to the judge."""
        if self.against is None:
            messages = judging.rate(self.prompt, self.text, rubric, mark)
        else:
            shown = (self.text, self.other) if self.first else (self.other, self.text)
            messages = judging.compare(self.prompt, *shown, rubric, mark)
        return Prompt(self.id, None, messages, None, "judge", "judge", self.prompt.split, None, "{}")

    def verdict(self, read: str | None, error: str | None) -> Verdict:
        """What was read of the judge's reply, as a row."""
        named = (
            {"1": "model", "2": "against", "tie": "tie"} if self.first else {"1": "against", "2": "model", "tie": "tie"}
        )
        said = read if self.against is None or read is None else named[read]
        return Verdict(self.prompt.id, self.model, self.against, self.first, said, error=error)


def judge(
    config: recipe.Evaluate,
    asked: recipe.Teacher,
    prompts: Table,
    answers: Mapping[str, Table],
    students: Mapping[str, str],
    budget: float | None,
    context: Context,
) -> Outcome:
    """Verdicts on stored answers, by each model's name in the report; `students` maps each student to its baseline.

    `budget` is the most that they may cost, in US dollars. Raises OverBudget, StageError when more requests failed than the
    recipe allows, Interrupted after Ctrl-C.
    """
    assert config.judge is not None
    mode, rubric, mark = config.judge.mode, config.judge.rubric, _marks(context)
    cases = {case.id: case for case in _cases(config, config.judge, prompts, answers, students)}
    asks = {name: case.asked(rubric, mark(name)) for name, case in cases.items() if not case.equal}
    said = _ask(asked, config.split, list(asks.values()), budget, context)
    unread = [g for g in said.values() if g.error is None and judging.verdict(mode, g.text) is None]
    repeated = [
        dataclasses.replace(asks[g.id], id=f"{g.id} again", messages=judging.again(asks[g.id].messages, g.text))
        for g in unread
    ]
    second = _ask(asked, config.split, repeated, budget, context)
    check([g.error for g in said.values()], len(said), "the judge", context.max_error_rate)
    rows = []
    for name, case in cases.items():
        if case.equal:
            rows.append(Verdict(case.prompt.id, case.model, case.against, case.first, "tie", asked=False))
            continue
        reply = second.get(f"{name} again", said[name])
        rows.append(case.verdict(None if reply.error else judging.verdict(mode, reply.text), reply.error))
    both = [*said.values(), *second.values()]
    counts = {
        "asked": len(said),
        "asked_again": len(second),
        "unparsed": sum(row.said is None and row.error is None for row in rows),
        "errors": dict(collections.Counter(row.error for row in rows if row.error)),
        "prompt_tokens": sum(g.prompt_tokens for g in both),
        "output_tokens": sum(g.output_tokens for g in both),
        "cost": sum(g.cost for g in both),
    }
    if counts["unparsed"]:
        context.progress.say(
            f"the judge gave no verdict that can be read in {counts['unparsed']} of {len(said)} requests, which count for "
            "nobody: take a larger model, or evaluate.judge: {structured: true}"
        )
    return Outcome("verdicts", [write_part(context.url, config.split, Verdict, rows)], Verdict.SCHEMA, counts)


def asked_as(config: recipe.Judge, endpoint: recipe.Endpoint) -> recipe.Teacher:
    """The judge as it is asked: greedy, for one verdict."""
    form = {"structured": {"json_schema": judging.schema(config.mode)}} if config.structured else {}
    sampling = {"temperature": 0.0, "max_tokens": config.max_tokens, **form}
    return recipe.Teacher.model_validate({"kind": "endpoint", "endpoint": endpoint.model_dump(), "sampling": sampling})


def _cases(
    config: recipe.Evaluate,
    judge: recipe.Judge,
    prompts: Table,
    answers: Mapping[str, Table],
    students: Mapping[str, str],
) -> Iterator[Case]:
    """All judgements; an answer that failed is judged as the empty text that it is."""
    limits = [limit for limit in (judge.rows, config.limit) if limit is not None]
    rows = choose(prompts, config.model_copy(update={"limit": min(limits, default=None)}))
    texts = {name: {a.id: a.text for a in table.rows(Answer)} for name, table in answers.items()}
    for prompt in rows:
        if judge.mode == "rubric":
            for name, of in texts.items():
                yield Case(prompt, name, of[prompt.id])
            continue
        for student, baseline in students.items():
            for rival in ("teacher" if a == "teacher" else baseline for a in judge.against):
                for first in (True, False) if rival in texts else ():
                    text, other = texts[student][prompt.id], texts[rival][prompt.id]
                    yield Case(prompt, student, text, rival, other, first)


def _ask(
    asked: recipe.Teacher, split: str, prompts: Sequence[Prompt], budget: float | None, context: Context
) -> dict[str, Generation]:
    return {g.id: g for g in paid.ask(asked, split, prompts, budget, context)} if prompts else {}


def _marks(context: Context) -> Callable[[str], str]:
    """A mark for each judgement, by its id: nobody can foretell it, and it is the same when the step is begun again."""
    place = storage.join(context.url, paid.ASKED, "salt")
    storage.put_if_absent(place, secrets.token_bytes(32))
    salt = storage.read(place)
    return lambda name: hashlib.sha256(salt + name.encode()).hexdigest()[:20]
