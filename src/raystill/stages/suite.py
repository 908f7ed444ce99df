"""suite: a task of lm-eval, asked of a served model through lm-eval's own client (`local-chat-completions`), unchanged.

lm-eval runs in a process of its own, in the folder of the task's YAML, so that what that names by a relative path is found.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from raystill import recipe, storage
from raystill.artifacts import Outcome, write_part
from raystill.asking import Endpoint
from raystill.context import Context
from raystill.errors import Interrupted, RecipeError, StageError
from raystill.records import SuiteScore

VERSION = 1
LOOK_S = 0.5
"""Time between two looks for Ctrl-C."""


def suite(config: recipe.Suite, model: str, at_once: int, endpoint: Endpoint, context: Context) -> Outcome:
    """One model's scores in a task, or in each task of a group.

    Raises StageError when lm-eval fails, Interrupted after Ctrl-C.
    """
    assert config.lm_eval is not None
    context.progress.start(context.label, 1, "suites")
    task = Path(config.lm_eval).expanduser()
    base = endpoint.base_url.rstrip("/").removesuffix("/v1")
    arguments = {
        "model": model,
        "base_url": f"{base}/v1/chat/completions",
        "num_concurrent": at_once,
        "max_retries": 3,
        "tokenized_requests": False,
    }
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--apply_chat_template"),
        *("--model_args", *(f"{key}={value}" for key, value in arguments.items())),
        *("--tasks", named(task) if task.is_file() else config.lm_eval),
        *(("--include_path", str(task.parent.absolute())) if task.is_file() else ()),
        *(("--limit", str(config.limit)) if config.limit is not None else ()),
        *(("--num_fewshot", str(config.fewshot)) if config.fewshot is not None else ()),
        *("--output_path", str(context.scratch / "results")),
    ]
    direct = f"{os.environ.get('NO_PROXY', '')},127.0.0.1,localhost".strip(",")
    environment = os.environ | {"OPENAI_API_KEY": endpoint.key or "none", "NO_PROXY": direct}
    _run(command, task.parent if task.is_file() else None, environment, model, context)
    scores = list(_scores(context.scratch / "results", model))
    context.progress.advance(1)
    return Outcome("scores", [write_part(context.url, "suite", SuiteScore, scores)], SuiteScore.SCHEMA)


def identity(task: str) -> dict[str, str]:
    """What decides a task: lm-eval's version with its name, or with the content of its YAML and of local data that names."""
    version = importlib.metadata.version("lm_eval") if importlib.util.find_spec("lm_eval") else "absent"
    file = Path(task).expanduser()
    files = [file, *_data(file)] if file.is_file() else []
    return {"lm_eval": version, "task": "+".join(storage.sha256_file(f) for f in files) or task}


def named(task: Path) -> str:
    """The name of the task in a YAML file. Raises RecipeError when it has none."""
    found = _yaml(task).get("task")
    if not isinstance(found, str):
        raise RecipeError(f"{task} names no task; lm-eval's YAML begins with one: task: my_questions")
    return found


def refuse_absent(task: str) -> None:
    """Raise RecipeError where lm-eval or the task's YAML is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise RecipeError("lm-eval is not installed, which asks this suite; type: pip install 'raystill[lm-eval]'")
    if task.endswith((".yaml", ".yml")):
        if not Path(task).expanduser().is_file():
            raise RecipeError(f"{task} does not exist; check the path, or give the name of one of lm-eval's own tasks")
        named(Path(task).expanduser())


def _run(command: list[str], folder: Path | None, environment: dict[str, str], model: str, context: Context) -> None:
    said = context.scratch / "lm-eval.log"
    with (
        said.open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        while process.poll() is None:
            if context.stopping.wait(LOOK_S):
                process.terminate()
                raise Interrupted("stopped while lm-eval asked; run the same command to ask again")
    if process.returncode:
        last = (said.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise StageError(f"lm-eval failed on {model}: {last[:300]}; try it by hand, or leave this suite out")


def _scores(folder: Path, model: str) -> Iterator[SuiteScore]:
    """lm-eval's results: `metric,filter` with `metric_stderr,filter` beside it, where that is known."""
    (file,) = folder.rglob("results_*.json")
    found = json.loads(file.read_text())
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{kept}")
            yield SuiteScore(
                model=model,
                task=task,
                metric=metric if kept == "none" else f"{metric} ({kept})",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                rows=found["n-samples"][task]["effective"] if task in found["n-samples"] else 0,
            )


class _Yaml(yaml.SafeLoader):
    """lm-eval's YAML without its !function: that is Python, which only lm-eval runs."""


_Yaml.add_multi_constructor("!", lambda loader, suffix, node: None)


def _yaml(task: Path) -> dict[str, Any]:
    try:
        found = yaml.load(task.read_text(encoding="utf-8"), _Yaml)
    except (OSError, ValueError, yaml.YAMLError):
        raise RecipeError(f"{task} cannot be read as YAML; see lm-eval's task guide for its form") from None
    return found if isinstance(found, dict) else {}


def _data(task: Path) -> Iterator[Path]:
    """Local data files that a task's YAML names."""
    files = (_yaml(task).get("dataset_kwargs") or {}).get("data_files") or []
    groups = files.values() if isinstance(files, dict) else [files]
    for path in (p for group in groups for p in ([group] if isinstance(group, str) else group)):
        if (task.parent / path).is_file():
            yield task.parent / path
