"""The recipe: five lines are enough, and every mistake is named with its line."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from raystill import recipe_file, storage
from raystill.recipe import Recipe, Serve, Teacher, Train
from raystill.recipe_file import RecipeProblems

FIVE = """\
name: support
task: conversation
data: {train: support.jsonl}
teacher: {model: deepseek-ai/DeepSeek-V3}
student: {model: microsoft/Phi-4-mini-instruct}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_five_lines_are_enough(tmp_path: Path) -> None:
    assert recipe_file.load(written(tmp_path, FIVE)).recipe.name == "support"


def test_a_recipe_on_a_store_is_read_there(s3: str) -> None:
    storage.put_if_absent(f"{s3}/recipe.yaml", FIVE.encode())
    assert recipe_file.load(f"{s3}/recipe.yaml").recipe.name == "support"


@pytest.mark.parametrize(
    ("text", "line", "says", "fix"),
    [
        (FIVE + "trian: {epochs: 2}\n", 6, "unknown key 'trian'", "did you mean 'train'?"),
        (FIVE + "train:\n  epochs: two\n", 7, "train.epochs", ""),
        (FIVE + "train:\n  epochs: 1\n  epochs: 2\n", 8, "written twice", "keep one"),
        (FIVE.replace("task: conversation\n", ""), 1, "'task' is missing", "add: task: …"),
        (FIVE.replace("name: support", "name: Support Desk"), 1, "'Support Desk' is not a name", ""),
        (FIVE + "students: {a: {model: x}}\n", 1, "exactly one of 'student' and 'students'", ""),
        (FIVE.replace("{model: deepseek-ai/DeepSeek-V3}", "{system: hello}"), 4, "exactly one of 'model' and 'rec", ""),
        (FIVE + "train: {learning_rate: .nan}\n", 6, "train.learning_rate", ""),
        (FIVE + "serve:\n  replicas: {studnt: 2}\n", 1, "serve.replicas names no model of this recipe: studnt", ""),
        (FIVE + "serve:\n  replicas: {min_replicas: 2}\n", 7, "max_replicas 1 is below min_replicas 2", ""),
        (FIVE + "serve:\n  replicas: {teacher: {min: 0}}\n", 7, "unknown key 'min'", "known here: min_replicas"),
        (FIVE + "serve:\n  replicas: 0\n", 7, "serve.replicas", ""),
        ("- a\n- b\n", 1, "a recipe is a map", "raystill init"),
        ("name: [\n", 2, "not YAML", "indentation"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, says: str, fix: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeProblems) as caught:
        recipe_file.load(path)
    problem = caught.value.problems[0]
    assert problem.where == f"{path}:{line}"
    assert says in problem.what
    assert fix in problem.fix


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = FIVE + "train: {epochs: 0, clip: -1}\nevaluate: {limit: none}\n"
    with pytest.raises(RecipeProblems) as caught:
        recipe_file.load(written(tmp_path, text))
    assert len(caught.value.problems) == 3


def test_a_missing_recipe_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="raystill init"):
        recipe_file.load(str(tmp_path / "none.yaml"))


def test_compute_may_live_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("generate: {replicas: 8}\n")
    made = recipe_file.load(written(tmp_path, FIVE), str(tmp_path / "big.yaml"))
    assert made.recipe.compute.generate.replicas == 8


def test_placement_keys_of_an_engine_are_no_identity() -> None:
    one = Teacher(model="m", engine={"tensor_parallel_size": 1, "max_model_len": 100})
    two = Teacher(model="m", engine={"tensor_parallel_size": 8, "max_model_len": 100})
    other = Teacher(model="m", engine={"max_model_len": 200})
    assert one.identity() == two.identity() != other.identity()


def test_a_students_own_training_is_validated() -> None:
    made = Recipe.model_validate(
        {
            "name": "a", "task": "conversation", "data": {"train": "x"}, "teacher": {"kind": "reference"},
            "students": {"small": {"model": "s", "train": {"epochs": 1}}, "large": {"model": "l"}},
        }
    )  # fmt: skip
    assert made.train_for(made.students["small"]) == Train(epochs=1)
    assert made.train_for(made.students["large"]) == Train()


ASKED = {"url": "https://api.example.com/v1", "model": "large", "key_env": "EXAMPLE_KEY"}


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("{url: api.example.com/v1, model: m}", "needs a scheme and a host; e.g. url: https://"),
        ("{url: 'ftp://api.example.com', model: m}", "needs a scheme and a host"),
        ("{url: 'https://', model: m}", "needs a scheme and a host"),
        ("{url: 'https://me:SECRET@h/v1', model: m}", "no user, password or query"),
        ("{url: 'https://h/v1?key=SECRET', model: m}", "no user, password or query"),
        ("{url: 'https://h/v1/chat/completions', model: m}", "is the base, without /chat/completions"),
        ("{url: 'https://h', model: m, key_env: sk-SECRET}", "never the key"),
        ("{url: 'https://h', model: m, key_env: 0fSECRET}", "never the key"),
        ("{url: 'https://h', model: m, key_file: sk-SECRET}", "never the key"),
        ("{url: 'https://h', model: m, key_file: hf_SECRETSECRETSECRET}", "never the key"),
        ("{url: 'https://h', model: m, key: sk-SECRET}", "unknown key 'key' in teacher.endpoint"),
        ("{url: 'https://h', model: m, key_env: A, key_file: b}", "one of 'key_env' and 'key_file'"),
        ("{url: 'https://h', model: m, extra: {stream: false}}", "may not set 'stream'"),
        ("{url: 'https://h', model: m, extra: {n: null}}", "may not set 'n'"),
        ("{url: 'https://h', model: m, extra: {seed: 3}}", "write it as teacher.sampling.seed"),
        ("{url: 'https://h', model: m, extra: {token: sk-SECRET}}", "looks like a key"),
        ("{url: 'https://h', model: m, price: {input: 1}}", "'teacher.endpoint.price.output' is missing"),
        ("{url: 'https://h', model: m, concurrency: 0}", "teacher.endpoint.concurrency"),
        ("null", "kind: endpoint needs an 'endpoint'"),
    ],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_asked_is_refused_and_no_key_is_shown(
    tmp_path: Path, endpoint: str, says: str
) -> None:
    text = FIVE.replace("{model: deepseek-ai/DeepSeek-V3}", f"{{kind: endpoint, endpoint: {endpoint}}}")
    with pytest.raises(RecipeProblems, match=r"recipe\.yaml:4") as caught:
        recipe_file.load(written(tmp_path, text))
    assert says in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_an_endpoint_belongs_to_its_kind() -> None:
    assert Teacher.model_validate({"kind": "endpoint", "endpoint": ASKED}).endpoint
    with pytest.raises(ValueError, match="write kind: endpoint"):
        Teacher.model_validate({"model": "m", "endpoint": ASKED})
    with pytest.raises(ValueError, match=r"from 'endpoint\.model'"):
        Teacher.model_validate({"kind": "endpoint", "model": "m", "endpoint": ASKED})


def test_what_is_asked_of_an_endpoint_is_its_identity_and_how_is_not() -> None:
    def identity(**changes: object) -> object:
        return Teacher.model_validate({"kind": "endpoint", "endpoint": {**ASKED, **changes}}).identity()

    assert identity() == identity(
        key_env="OTHER", requests_per_minute=5, tokens_per_minute=5, concurrency=1, timeout_s=1, price={"input": 1, "output": 2}
    )  # fmt: skip
    assert identity() != identity(url="https://other.example.com")
    assert identity() != identity(model="small")
    assert identity() != identity(extra={"reasoning_effort": "low"})


@pytest.mark.parametrize(
    "task", ["math", {"kind": "math", "chain_of_thought": True}, {"parse": {"choices": ["a", "b"]}}]
)
def test_a_task_is_a_kind_or_a_map_to_editors_too(task: Any) -> None:
    whole = {"name": "x", "task": task, "data": {"train": "a"}, "teacher": {"model": "a"}, "student": {"model": "b"}}
    validator = Draft202012Validator(Recipe.model_json_schema())
    assert not list(validator.iter_errors(whole))
    assert list(validator.iter_errors(whole | {"task": {"kinds": "math"}}))
    assert Recipe.model_validate(whole).task.kind == ("own" if isinstance(task, dict) and "parse" in task else "math")


def test_replicas_are_a_number_bounds_or_either_by_model() -> None:
    def of(replicas: Any) -> dict[str, tuple[int, int]]:
        serve = Serve.model_validate({"replicas": replicas})
        found = {name: serve.replicas_of(name) for name in ("teacher", "student")}
        return {name: (each.min_replicas, each.max_replicas) for name, each in found.items()}

    assert of(2) == {"teacher": (2, 2), "student": (2, 2)}
    assert of({"min_replicas": 0, "max_replicas": 3}) == {"teacher": (0, 3), "student": (0, 3)}
    assert of({"teacher": {"min_replicas": 0}, "student": 4}) == {"teacher": (0, 1), "student": (4, 4)}
    assert of({"student": 4}) == {"teacher": (1, 1), "student": (4, 4)}


def test_the_scaling_pages_recipes_are_recipes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    recipes = [textwrap.dedent(block) for block in blocks if block.startswith("    serve:")]
    loaded = [recipe_file.load(written(tmp_path, FIVE + block)).recipe.serve for block in recipes]
    assert [serve.adapters for serve in loaded] == [False, True]
    assert loaded[0].replicas_of("teacher").downscale_delay_s == 900


def routed(serve: dict[str, Any], **more: Any) -> Recipe:
    nouns = {"teacher": {"model": "t"}, "student": {"model": "s"}}
    return Recipe.model_validate({"name": "n", "task": "math", "data": {"train": "x"}, "serve": serve, **nouns, **more})


TWO = {"student": None, "students": {"a": {"model": "a"}, "b": {"model": "b"}}}
PAID = {"teacher": {"kind": "endpoint", "endpoint": {"url": "https://x.org", "model": "m"}}}


@pytest.mark.parametrize(
    ("serve", "more", "arms"),
    [
        ({}, {}, {}),
        ({"canary": {"student": 0.25}}, {}, {"student": 0.25, "teacher": 0.75}),
        ({"canary": {"a": 0.5, "b": 0.5}}, {**TWO, **PAID}, {"a": 0.5, "b": 0.5}),
        ({"fallback": {}}, {}, {"student": 1.0}),
        ({"fallback": {"student": "b"}, "canary": {"a": 0.5, "b": 0.5}}, TWO, {"a": 0.5, "b": 0.5}),
    ],
)
def test_who_answers_under_the_public_name(serve: dict[str, Any], more: dict[str, Any], arms: dict[str, float]) -> None:
    assert routed(serve, **more).arms() == arms


@pytest.mark.parametrize(
    ("serve", "more", "says"),
    [
        ({"canary": {"student": 0.8, "baseline": 0.3}}, {}, "sum to 1.1"),
        ({"canary": {"studnet": 0.1}}, {}, "no model of this recipe: studnet"),
        ({"canary": {"student": 0.1}}, PAID, "no weights"),
        ({"fallback": {}}, PAID, "no weights"),
        ({"fallback": {}}, TWO, "must be one of: a, b"),
        ({"fallback": {"check": False}}, {}, "never asks the teacher"),
        ({"fallback": {}, "canary": {"baseline": 1.0}}, {}, "gives student no share"),
        ({"public_name": "student"}, {}, "a model's own name"),
        ({"capture": {"to": "x", "redact": ["("]}}, {}, "regular expression"),
    ],
)
def test_routes_that_lead_nowhere_are_refused(serve: dict[str, Any], more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        routed(serve, **more)
