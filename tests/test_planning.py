"""plan: every step named, every mistake at once, nothing heavy, nothing run."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raystill import memory, planning, printed
from raystill.errors import Problem


def recipe(folder: Path, **changes: str) -> str:
    """A small valid recipe as YAML, with lines of it changed or added."""
    rows = [{"id": f"r{i}", "prompt": f"question {i}", "reference": f"answer {i}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = {
        "name": "small",
        "task": "conversation",
        "root": str(folder / "runs"),
        "data": f"{{train: {folder / 'rows.jsonl'}, prompt: prompt, reference: reference, id: id}}",
        "teacher": "{kind: reference}",
        "student": f"{{model: {folder / 'model'}}}",
    } | changes
    (folder / "model").mkdir(exist_ok=True)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 2048}
    (folder / "model" / "config.json").write_text(json.dumps(shape))
    path = folder / "recipe.yaml"
    path.write_text("\n".join(f"{k}: {v}" for k, v in lines.items()))
    return str(path)


def test_every_step_is_named_with_its_state(tmp_path: Path) -> None:
    made = planning.plan(recipe(tmp_path))
    assert not made.problems
    assert [s.label for s in made.steps] == [
        "prepare", "generate", "curate", "train student", "answer baseline", "measure baseline",
        "answer student", "measure student",
    ]  # fmt: skip
    assert {s.state for s in made.steps} == {"to do"}


def test_several_teachers_are_each_a_step(tmp_path: Path) -> None:
    path = recipe(tmp_path, route="cascade")
    text = (
        Path(path)
        .read_text()
        .replace("teacher: {kind: reference}", "teachers: {cheap: {kind: reference}, dear: {kind: scripted}}")
    )
    Path(path).write_text(text)
    made = planning.plan(path)
    assert not made.problems
    labels = [s.label for s in made.steps]
    assert labels[:5] == ["prepare", "generate cheap", "route dear", "generate dear", "curate"]


def test_hub_models_are_unresolved_and_no_error(tmp_path: Path) -> None:
    made = planning.plan(recipe(tmp_path, teacher="{model: deepseek-ai/DeepSeek-V3}"))
    states = {s.label: s.state for s in made.steps}
    assert not made.problems
    assert states["prepare"] == "to do"
    assert states["generate"] == states["train student"] == "unresolved"


def problems(found: list[Problem]) -> str:
    return "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("task", "clasification", "did you mean 'classification'?"),
        ("data", "{train: nowhere.jsonl}", "nowhere.jsonl"),
        ("data", "{train: ROWS, prompt: qestion}", "qestion"),
        ("data", "{train: ROWS, prompt: 'constant {{ 1 }}'}", "names no column"),
        ("teacher", "{kind: vlm, model: x}", "did you mean 'vllm'?"),
        ("teacher", "{model: MODEL, engine: {seed: 1}}", "teacher.engine.seed is set by raystill"),
        (
            "teacher",
            "{model: MODEL, engine: {max_model_length: 9}}",
            "did you mean 'max_model_len'?",
        ),
        ("serve", "{engine: {max_num_sequence: 9}}", "serve.engine.max_num_sequence is no vLLM engine argument"),
        ("teacher", "{model: ./gone}", "does not exist"),
        ("student", "{init: {from: MODEL, layers: [0, 7]}}", "layers 0 to 1, not 7"),
        ("student", "{model: MODEL, train: {epochs: -1}}", "train.epochs"),
        ("train", "{loss: {kind: cross_entorpy}}", "did you mean 'cross_entropy'?"),
        ("train", "{loss: forward_kl}", "write loss: {kind: forward_kl}"),
        ("train", "{loss: {kind: reverse_kl}}", "score: {k: 50}"),
        ("student", "{model: MODEL, train: {loss: {kind: cross_entropy, alpha: 0.5}}}", "alpha says nothing"),
        ("train", "{deepspeed: {train_batch_size: 4}}", "train_batch_size"),
        ("train", "{deepspeed: {zero_optimization: {offload_param: {device: cpu}}}}", "compute.train.zero is 1"),
        ("student", "{model: MODEL, train: {optimizer: adamw_8bit, batch_size: 0}}", "train.batch_size"),
        ("curate", "{filters: [emtpy]}", "did you mean 'empty'?"),
        ("teacher", "{kind: reference, sampling: {n: 2, temperature: 0}}", "2 samples at temperature 0"),
        ("teacher", "{kind: reference, sampling: {structured: {regex: a, choice: [a, b]}}}", "exactly one of"),
        ("teacher", "{kind: reference, sampling: {structured: {json_schema: {type: nonsense}}}}", "is no JSON Schema"),
        ("teacher", "{kind: reference, sampling: {structured: {regex: '(a'}}}", "regex does not compile"),
        ("teacher", "{model: MODEL, engine: {tensor_parallel_size: 3}}", "does not divide the 4 attention heads"),
        ("route", "{by: x, map: {a: nobody}}", "names no teacher of this recipe: nobody"),
        ("evaluate", "{max_tokens: 2048}", "could not be compared on the same rows"),
        ("evaluate", "{objective: {}}", "an objective needs a limit"),
        ("evaluate", "{judge: {}}", "a judge is one of 'endpoint' and 'model'"),
        ("evaluate", "{judge: {model: nobody}}", "'nobody' is no model of this recipe"),
        ("evaluate", "{judge: {model: student, against: [student]}}", "'against' takes teacher and baseline"),
        (
            "evaluate",
            "{judge: {endpoint: {url: 'https://h', model: m, key_env: NOT_SET_ANYWHERE}}}",
            "NOT_SET_ANYWHERE holds no key",
        ),
        ("evaluate", "{suites: {hard: {}}}", "a suite is one of 'data' and 'lm_eval'"),
        ("evaluate", "{suites: {hard: {data: ROWS, fewshot: 2}}}", "'fewshot' says nothing"),
        ("evaluate", "{suites: {hard: {data: gone.jsonl}}}", "gone.jsonl does not exist"),
        ("trackers", "[tensorbord]", "did you mean 'tensorboard'?"),
        ("root", "ROWS/runs", "not writable"),
    ],
)
def test_a_mistake_is_found_offline_with_its_line(tmp_path: Path, key: str, value: str, says: str) -> None:
    value = value.replace("ROWS", str(tmp_path / "rows.jsonl")).replace("MODEL", str(tmp_path / "model"))
    path = recipe(tmp_path, **{key: value})
    found = planning.plan(path).problems
    line = next(i for i, text in enumerate(Path(path).read_text().splitlines(), 1) if text.startswith(key))
    assert says in problems(found)
    assert found[0].where == f"{path}:{line}"
    assert found[0].fix


def test_a_served_context_that_an_answer_fills_is_found(tmp_path: Path) -> None:
    said = problems(planning.plan(recipe(tmp_path, serve="{engine: {max_model_len: 512}}")).problems)
    assert said.count("has a context of 512 tokens, and answers of 512 leave no room") == 1


def test_a_loss_is_held_against_the_targets_to_be_scored(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    given = {"teacher": f"{{kind: transformers, model: {teacher}}}", "score": "{support: sampled, temperature: 2}"}
    path = recipe(tmp_path, **given, train="{loss: {kind: reverse_kl, temperature: 1}}")
    (teacher / "config.json").write_text((tmp_path / "model" / "config.json").read_text())
    tokens = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<end>", "id": 2}]}
    (teacher / "tokenizer.json").write_text(json.dumps(tokens))
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokens))
    found = problems(planning.plan(path).problems)
    assert "draws tell only which tokens" in found and "score: {support: top_k}" in found
    assert "cannot become those of 1" in found and "loss: {temperature: 2}" in found
    assert "tokenizer" not in found
    tokens["added_tokens"][0]["id"] = 3  # type: ignore[index]
    (teacher / "tokenizer.json").write_text(json.dumps(tokens))
    assert not planning.plan(recipe(tmp_path, **given, train="{loss: {kind: forward_kl}}")).problems
    path = recipe(tmp_path, teacher=given["teacher"], train="{teacher: live, loss: {kind: forward_kl}}")
    assert "has another tokenizer than" in problems(planning.plan(path).problems)
    assert not planning.plan(recipe(tmp_path, **given)).problems


ON_POLICY = {"teacher": "{model: MODEL}", "score": "{k: 5}", "train": "{loss: {kind: reverse_kl}}", "rounds": "1"}


def planned(folder: Path, **lines: str) -> planning.Plan:
    return planning.plan(recipe(folder, **{k: v.replace("MODEL", str(folder / "model")) for k, v in lines.items()}))


def test_rounds_follow_the_same_line_as_without_them(tmp_path: Path) -> None:
    offline = planned(tmp_path, **ON_POLICY | {"rounds": "0"})
    made = planned(tmp_path, **ON_POLICY | {"rounds": "2", "on_policy": "{lambda: 0.5}"})
    assert not made.problems
    steps = {s.label: s.fingerprint for s in made.steps}
    stages = ("route", "generate", "curate", "mix", "score", "train")
    rounds = [f"{stage} student round {n}" for n in (1, 2) for stage in stages]
    assert [label for label in steps if "round" in label] == rounds
    assert len({steps[label] for label in rounds}) == len(rounds)
    before = {s.label: s.fingerprint for s in offline.steps if s.label.split()[0] not in ("answer", "measure")}
    assert before.items() <= steps.items()


def test_a_student_may_have_its_own_number_of_rounds(tmp_path: Path) -> None:
    two = f"{{first: {{model: {tmp_path / 'model'}, rounds: 0}}, second: {{model: {tmp_path / 'model'}}}}}"
    path = recipe(tmp_path, **{k: v.replace("MODEL", str(tmp_path / "model")) for k, v in ON_POLICY.items()})
    lines = [
        f"students: {two}" if line.startswith("student:") else line for line in Path(path).read_text().splitlines()
    ]
    Path(path).write_text("\n".join(lines))
    made = planning.plan(path)
    assert not made.problems
    steps = {s.label: s.fingerprint for s in made.steps}
    assert steps["train first"] == steps["train second"]
    assert [label for label in steps if "round" in label][-1] == "train second round 1"
    assert steps["answer first"] != steps["answer second"]


def test_only_the_rounds_text_is_scored_where_the_first_training_is_on_text(tmp_path: Path) -> None:
    changed = {"train": "{epochs: 1}", "on_policy": "{train: {loss: {kind: reverse_kl}}}"}
    labels = [s.label for s in planned(tmp_path, **ON_POLICY | changed).steps]
    assert "score student round 1" in labels and "score" not in labels


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"teacher": "{kind: reference}"}, "a 'reference' teacher has no weights here"),
        ({"score": "null"}, "there is no 'score'"),
        ({"train": "{}"}, "cross_entropy in a round would teach the student its own text"),
        ({"train": "{loss: {kind: forward_kl, alpha: 0.5}}"}, "alpha 0.5 in a round gives the student's own text"),
        ({"score": "{support: sampled}"}, "draws tell only which tokens the teacher likes"),
        ({"on_policy": "{train: {epochs: -1}}"}, "train.epochs"),
        ({"on_policy": "{engine: {seed: 1}}"}, "on_policy.engine.seed is set by raystill"),
        ({"on_policy": "{lambda: 0}"}, "on_policy.lambda"),
        ({"on_policy": "{lamda: 0.5}"}, "did you mean 'lambda'?"),
    ],
)
def test_rounds_that_cannot_be_are_refused(tmp_path: Path, lines: dict[str, str], says: str) -> None:
    found = planned(tmp_path, **ON_POLICY | lines).problems
    assert says in problems(found)
    assert all(problem.fix for problem in found)


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ("{}", "names nothing to search"),
        ("{learning_rat: [1]}", "did you mean 'learning_rate'?"),
        ("{learning_rate: {min: 1, max: 1}}", "the range from 1 to 1 is empty"),
        ("{learning_rate: []}", "at least 1 item"),
        ("{learning_rate: [-1]}", "learning_rate -1"),
        ("{alpha: {min: 0.5, max: 2}}", "alpha 2"),
        ("{beta: [0.5]}", "beta says nothing to kind: reverse_kl"),
        ("{k: [0, 5]}", "k 0"),
        ("{k: [5], student: bob}", "no student is called 'bob'"),
    ],
)
def test_a_search_over_what_cannot_be_is_refused(tmp_path: Path, tune: str, says: str) -> None:
    found = planned(tmp_path, **ON_POLICY | {"rounds": "0", "tune": tune}).problems
    assert says in problems(found)
    assert all(problem.fix for problem in found)


def test_a_search_needs_something_to_go_by(tmp_path: Path) -> None:
    data = f"{{train: {tmp_path / 'rows.jsonl'}, id: id, prompt: prompt, split: {{validation: 0}}}}"
    lines = {"tune": "{k: [5]}", "data": data, "train": "{validations: 0}"}
    found = problems(planned(tmp_path, **lines).problems)
    assert "trials are compared by the validation text, and there is none" in found
    assert "trials are compared at their validations, and there are none" in found
    assert "k says nothing without soft targets" in found


LIVE = "{{teacher: live, loss: {{{}}}}}"


@pytest.mark.parametrize(
    ("loss", "more", "says", "fix"),
    [
        ("kind: forward_kl", {"teacher": "{kind: reference}"}, "a 'reference' teacher has none", "teacher.model"),
        ("kind: forward_kl", {"score": "{k: 20}"}, "nothing reads what score would store", "remove it"),
        ("kind: cross_entropy", {}, "nothing asks the live teacher", "kind: forward_kl"),
        ("layers: {map: [[0, 1], [1, 7]]}", {}, "map names layers [[1, 7]]", "map: uniform"),
        ("attention: {map: [[2, 1]]}", {}, "the student has 0 to 1", "map: uniform"),
        ("layers: {map: [[-1, 0]]}", {}, "greater than or equal to 0", ""),
    ],
)
def test_what_a_live_teacher_cannot_do_is_found(
    tmp_path: Path, loss: str, more: dict[str, str], says: str, fix: str
) -> None:
    teacher = {"teacher": f"{{kind: transformers, model: {tmp_path / 'model'}}}"}
    found = planning.plan(recipe(tmp_path, **teacher | more, train=LIVE.format(loss))).problems
    assert says in problems(found)
    assert fix in problems(found)


def test_teachers_that_cannot_be_mixed_are_found(tmp_path: Path) -> None:
    def plan(**changes: str) -> str:
        path = recipe(tmp_path, **changes)
        text = Path(path).read_text().replace("teacher: {kind: reference}", f"teachers: {{{teachers}}}")
        Path(path).write_text(text)
        return problems(planning.plan(path).problems)

    for name, end in (("a", 2), ("b", 2), ("c", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"num_attention_heads": 4}')
        tokens = {"model": {"vocab": {"x": 0, "y": 1}}, "added_tokens": [{"content": "<end>", "id": end}]}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(tokens))
    models = (f"{n}: {{kind: transformers, model: {tmp_path / n}}}" for n in "abc")
    teachers = ", ".join([*models, "d: {kind: reference}"])
    assert plan(score="{mixture: {a: 1, b: 2}}") == ""
    assert "c has another tokenizer than a" in plan(score="{mixture: {a: 1, c: 1}}")
    assert "a 'reference' teacher has none" in plan(score="{mixture: {a: 1, d: 1}}")
    assert "names no teacher of this recipe: e" in plan(score="{mixture: {a: 1, e: 1}}")
    assert "takes two teachers and more" in plan(score="{mixture: {a: 1}}")
    assert "write kind: transformers" in plan(score="{kind: vllm, mixture: {a: 1, b: 1}}")
    assert "greater than 0" in plan(score="{mixture: {a: 1, b: 0}}")


def test_a_live_teacher_is_an_input_of_training_and_its_cost_is_said(tmp_path: Path) -> None:
    teacher = {"teacher": f"{{kind: transformers, model: {tmp_path / 'model'}}}"}
    asked = {"stored": "{}"} | {"live": LIVE.format("layers: {}, attention: {kind: maps}")}
    made = {name: planning.plan(recipe(tmp_path, **teacher, train=train)) for name, train in asked.items()}
    assert not made["live"].problems
    assert not made["stored"].needs
    assert (
        "holds the whole teacher" in made["live"].needs[0] and "computed twice on both sides" in made["live"].needs[1]
    )
    labels = [step.label for step in made["live"].steps]
    assert "score" not in labels and "train student" in labels
    seen = planning.plan(
        recipe(tmp_path, **{**teacher, "teacher": teacher["teacher"][:-1] + ", system: Brief.}"}, train=asked["live"])
    )
    trained = [next(s.fingerprint for s in m.steps if s.label == "train student") for m in (made["live"], seen)]
    assert trained[0] != trained[1]


@pytest.mark.parametrize(
    ("data", "metric", "says"),
    [
        ("", "validation_loss", None),
        ("", "bleu", None),
        ("split: {validation: 0}", "validation_loss", r"no validation rows .*split: \{validation: 0\.05\}"),
        ("split: {validation: 0}, validation: FILE", "accuracy", None),
        ("", "macro_f1", r"conversation has no metric 'macro_f1'.*one of validation_loss, accuracy, exact_match, bleu"),
    ],
)
def test_early_stopping_needs_validation_rows_and_a_metric_of_the_task(
    tmp_path: Path, data: str, metric: str, says: str | None
) -> None:
    path = recipe(tmp_path, train=f"{{early_stopping: {{metric: {metric}}}}}")
    text, file = Path(path).read_text(), str(tmp_path / "rows.jsonl")
    Path(path).write_text(text.replace("id: id}", f"id: id, {data.replace('FILE', file)}}}") if data else text)
    found = planning.plan(path).problems
    assert bool(found) == bool(says), found
    assert re.search(says or "", problems(found), re.DOTALL)


@pytest.mark.parametrize(
    ("task", "references", "said"),
    [
        (
            "nli",
            ["entails", "neutral"],
            "cannot read 20 of the first 40 references; it takes entailment, neutral, contra",
        ),
        ("math", ["about forty"], "it takes a number, or a text that ends in one"),
        ("{parse: {json_path: label}}", ['{"label": '], "it takes a value, or JSON with one at task.parse.json_path"),
        ("{parse: {choices: [low, high]}}", ["medium"], "it takes one of task.parse.choices"),
        ("{parse: {regex: '('}}", ["x"], "task.parse.regex is no valid regex"),
        ("{metrics: [bleu, accuracie]}", ["x"], "'accuracie' is no metric"),
        ("{metrics: [bleu]}", [""], "bleu: measured against references, and none of the first 40 rows has one"),
        ("{kind: math, labels: [a, b]}", ["1"], "'labels' says nothing to task math, only to nli, moderation"),
        ("{parse: {regexp: x}}", ["x"], "unknown key 'regexp'"),
    ],
)
def test_a_task_that_cannot_be_judged_is_found_before_anything_runs(
    tmp_path: Path, task: str, references: list[str], said: str
) -> None:
    path = recipe(tmp_path, task=task)
    rows = [{"id": f"r{i}", "prompt": f"q{i}", "reference": references[i % len(references)]} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert said in problems(planning.plan(path).problems)


def test_a_tasks_words_are_shown_and_decide(tmp_path: Path) -> None:
    model = f"{{model: {tmp_path / 'model'}}}"
    prints = {}
    for task in ("qa", "conversation", "{kind: qa, system: Answer}"):
        made = planning.plan(recipe(tmp_path, task=task, teacher=model))
        assert made.recipe and not made.problems
        prints[task] = {s.label: s.fingerprint for s in made.steps}
        ((system, why),) = [(v, why) for key, v, why in planning.resolved(made.recipe) if key == "teacher.system"]
        assert (system is None) == (task == "conversation") and why.startswith("the task's own")
    assert prints["qa"]["prepare"] == prints["{kind: qa, system: Answer}"]["prepare"]
    assert prints["qa"]["generate"] != prints["{kind: qa, system: Answer}"]["generate"]


def test_what_only_the_report_reads_changes_no_step(tmp_path: Path) -> None:
    def prints(task: str) -> dict[str, str]:
        return {s.label: s.fingerprint for s in planning.plan(recipe(tmp_path, task=task)).steps}

    assert prints("conversation") == prints("{kind: conversation}")
    own = prints("{parse: {regex: x}}")
    assert own == prints("{parse: {regex: x}, metrics: [accuracy, bleu]}")
    other = prints("{parse: {regex: y}}")
    assert (own["generate"], own["curate"]) == (other["generate"], own["curate"]) and own["curate"] != other["curate"]


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    path = recipe(tmp_path, task="nope", teacher="{model: ./gone}", trackers="[nope]")
    assert len(planning.plan(path).problems) == 3


def test_plan_answers_within_a_second_without_torch_or_ray(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    code = (
        f"import sys; from raystill import planning; planning.plan({path!r}); "
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'datasets'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0


def test_resolved_gives_every_key_a_reason(tmp_path: Path) -> None:
    made = planning.plan(recipe(tmp_path))
    assert made.recipe is not None
    rows = planning.resolved(made.recipe)
    assert ("train.learning_rate", 2e-5, "2e-5 suits all weights of 1B and more, 2e-4 lora") in rows
    assert ("task.kind", "conversation", "from the recipe") in rows
    assert all(why for _, _, why in rows)


def test_a_students_own_adapter_brings_its_own_learning_rate(tmp_path: Path) -> None:
    student = f"{{model: {tmp_path / 'model'}, train: {{lora: {{r: 8}}}}}}"
    made = planning.plan(recipe(tmp_path, student=student, train="{epochs: 4}"))
    assert made.recipe and made.recipe.student
    train = made.recipe.train_for(made.recipe.student)
    assert (train.learning_rate, train.epochs) == (2e-4, 4)
    assert not made.problems and not made.warnings
    given = planning.plan(recipe(tmp_path, student=student, train="{learning_rate: 2.0e-5}"))
    assert len(given.warnings) == 1 and "outside 0.0001 to 0.0005" in printed.steps(given)


@pytest.mark.parametrize(("address", "refused"), [(None, True), ("ray://head:10001", False)])
def test_four_bits_are_refused_where_no_gpu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, refused: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    path = recipe(tmp_path, train="{lora: {quantize: nf4}}")
    found = problems(planning.plan(path).problems)
    assert ("quantize: nf4 needs a GPU" in found) == refused
    assert f"{path}:7" in found or not refused


def test_idle_workers_are_found(tmp_path: Path) -> None:
    path = recipe(tmp_path, train="{batch_size: 2}", compute="{train: {workers: 4}}")
    assert "2 would never learn from one" in problems(planning.plan(path).problems)


ENDPOINT = "{{kind: endpoint, endpoint: {{url: 'https://api.example.com', model: large{}}}}}"


@pytest.mark.parametrize(
    ("more", "lines", "says"),
    [
        (", key_env: NO_SUCH_KEY", {}, ("NO_SUCH_KEY holds no key", "export NO_SUCH_KEY=")),
        (", key_file: nowhere/key", {}, ("nowhere/key holds no key", "write the key into it")),
        ("", {"budget": "{usd: 5}"}, ("a budget needs the endpoint's price", "per million tokens")),
        (", price: {input: 0, output: 0}", {"budget": "{usd: 5}"}, ("a budget needs the endpoint's price",)),
        (
            ", price: {input: 1, output: 4}",
            {"budget": "{usd: 5}", "prices": "{currency: EUR}"},
            ("in US dollars and prices are in EUR", "currency: USD"),
        ),
        (", price: {input: 1, output: 4}", {"budget": "{usd: 5}"}, ()),
    ],
)
def test_an_endpoints_key_and_price_are_looked_for(
    tmp_path: Path, more: str, lines: dict[str, str], says: tuple[str, ...]
) -> None:
    made = planning.plan(recipe(tmp_path, teacher=ENDPOINT.format(more), **lines))
    assert len(made.problems) == bool(says)
    assert all(s in problems(made.problems) for s in says)


@pytest.mark.parametrize(
    ("engine", "generate", "says"),
    [
        (
            "{tensor_parallel_size: 2}",
            "{tensor_parallel: 4}",
            "tensor_parallel_size is 2 and compute.generate.tensor_par",
        ),
        ("{pipeline_parallel_size: 2}", "{pipeline_parallel: 1}", "keep one of them"),
        ("{}", "{tensor_parallel: 3}", "does not divide the 4 attention heads"),
        ("{tensor_parallel_size: two}", "{}", "whole numbers from 1"),
        ("{}", "{tensor_parallel: 4, gpus: 2}", "leave compute.generate.gpus out"),
        ("{tensor_parallel_size: 2}", "{tensor_parallel: 2, gpus: 2}", ""),
    ],
)
def test_how_an_engine_is_split_is_said_once_and_fits_the_model(
    tmp_path: Path, engine: str, generate: str, says: str
) -> None:
    teacher = f"{{model: {tmp_path / 'model'}, engine: {engine}}}"
    path = recipe(tmp_path, teacher=teacher, compute=f"{{generate: {generate}}}")
    found = planning.plan(path).problems
    assert len(found) == bool(says)
    assert says in problems(found)
    assert all(problem.where == f"{path}:5" for problem in found)


def test_a_model_too_large_for_this_machines_gpu_is_found_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 150 * 10**6)
    path = recipe(tmp_path, teacher=f"{{model: {tmp_path / 'model'}}}")
    with (tmp_path / "model" / "model.safetensors").open("wb") as file:
        file.truncate(200 * 10**6)
    assert "is too large: each GPU must hold 0.2 GB of weights" in problems(planning.plan(path).problems)
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 250 * 10**6)
    made = planning.plan(path)
    assert not made.problems
    assert "each GPU must hold 0.2 GB of weights" in printed.steps(made)
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 150 * 10**6)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    made = planning.plan(path)
    assert not made.problems and not made.needs


def test_plan_shows_the_node_shape_and_the_bundles_of_an_engine_over_several_nodes(tmp_path: Path) -> None:
    wide = "{generate: {tensor_parallel: 4, pipeline_parallel: 2, cpus: 8}}"
    shown = printed.steps(planning.plan(recipe(tmp_path, teacher=f"{{model: {tmp_path / 'model'}}}", compute=wide)))
    assert "how much its weights take is seen when they are there" in shown
    assert "one node of 8 GPUs and 8 CPUs, or 2 times 4 GPUs on one node each" in shown
    assert "a placement group of 8 bundles {GPU: 1}, PACK" in shown


def test_a_teacher_behind_a_url_is_asked_the_held_out_rows_too(tmp_path: Path) -> None:
    labels = [s.label for s in planning.plan(recipe(tmp_path, teacher=ENDPOINT.format(""))).steps]
    assert labels[-5:] == ["answer teacher", "answer baseline", "measure baseline", "answer student", "measure student"]


def test_a_teacher_without_an_engine_needs_no_gpus(tmp_path: Path) -> None:
    wide = "{generate: {tensor_parallel: 4, gpus: 4}}"
    assert planning.plan(recipe(tmp_path, teacher=ENDPOINT.format(""), compute=wide)).needs == []


def test_answers_are_kept_where_a_paid_teacher_has_answered(tmp_path: Path) -> None:
    path = recipe(tmp_path, teacher=ENDPOINT.format(""))
    step = next(s for s in planning.plan(path).steps if s.label == "answer teacher")
    asked = Path(step.url) / "asked"
    asked.mkdir(parents=True)
    (asked / "test-0.parquet").touch()
    assert next(s for s in planning.plan(path).steps if s.label == "answer teacher").state == "to do"
    (asked / "answered" / "unit").mkdir(parents=True)
    (asked / "answered" / "unit" / "0").touch()
    assert next(s for s in planning.plan(path).steps if s.label == "answer teacher").state == "partial"


def test_suites_are_asked_of_every_model_and_the_judge_comes_last(tmp_path: Path) -> None:
    more = "{judge: {endpoint: {url: 'https://h', model: m}}, suites: {hard: {data: ROWS}}}"
    given = {"teacher": ENDPOINT.format(""), "evaluate": more.replace("ROWS", str(tmp_path / "rows.jsonl"))}
    labels = [s.label for s in planning.plan(recipe(tmp_path, **given)).steps]
    assert labels[:3] == ["prepare", "prepare hard", "generate"]
    assert labels[-9:] == [
        "answer teacher", "answer teacher on hard", "answer baseline", "measure baseline", "answer baseline on hard",
        "answer student", "measure student", "answer student on hard", "judge",
    ]  # fmt: skip


def test_a_budget_bounds_the_judge_too(tmp_path: Path) -> None:
    judge = "{judge: {endpoint: {url: 'https://h', model: m}}}"
    found = problems(planning.plan(recipe(tmp_path, evaluate=judge, budget="{usd: 1}")).problems)
    assert "evaluate.judge.endpoint: price" in found
