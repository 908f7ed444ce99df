"""The arms of bench/generate.py, each started by it in a process of its own: generate_arms.py ARM JOB.json RESULT.json

Every arm answers the same rows and stamps each answer with the time at which the engine's process had it, so one rule
finds the steady window of all of them. Nothing heavy is imported here: Ray's workers import this file for its teacher.
"""

import asyncio
import dataclasses
import io
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystill import engine
from raystill.records import Generation, Prompt
from raystill.teachers.vllm import Vllm
from raystill.view import Lines


@dataclass(frozen=True)
class Job:
    """What an arm is to do: `rows` is a JSONL of id, prompt, tokens (to put out) and seed."""

    model: str
    rows: str
    unit_rows: int
    max_num_seqs: int
    folder: str

    def engine(self) -> dict[str, Any]:
        """Engine arguments beyond those that fit the machine."""
        if engine.has_gpu():
            return {"max_num_seqs": self.max_num_seqs}
        # vLLM 0.29 rewinds a row's seeded generator when a step holds only a part of its prompt, which CPU generators
        # refuse: the engine dies ("CPU Generator does not use offset"). 64 prompts at once exceed its 2,048 tokens a step.
        return {"max_num_seqs": self.max_num_seqs, "enable_chunked_prefill": False}


@dataclass(frozen=True)
class Result:
    """Answers as (time, tokens), when the arm was called, when its first answer was to be had, niceness of engines.

    The score arms count units for answers.
    """

    answers: list[tuple[float, int]]
    called: float
    first: float
    niceness: list[int]


class Stamped(Vllm):
    """raystill's own teacher, told each row's length and stamping each answer, both in the row's free column."""

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """As the teacher answers, with the time of it."""
        answers = await super().answer(prompt)
        stamp = json.dumps({"at": time.time(), "nice": os.nice(0)})
        return [dataclasses.replace(a, columns=stamp) for a in answers]

    def _sampling(self, prompt: Prompt, prompt_tokens: int) -> Any:
        params = super()._sampling(prompt, prompt_tokens)
        params.max_tokens = json.loads(prompt.columns)["tokens"]
        params.ignore_eos = True
        return params


def published(folder: str) -> dict[Path, float]:
    """When each unit was published, by its file: a driver hears of it later, often only when the next is there."""
    return {path: path.stat().st_mtime for path in Path(folder).glob("*.parquet")}


def raystill(job: Job) -> Result:
    """The generate stage as `raystill run` calls it, over units in Parquet."""
    called = time.time()
    from raystill import artifacts, session
    from raystill.artifacts import Checkpoint, Manifest, Table
    from raystill.context import Context
    from raystill.recipe import Compute, Teacher
    from raystill.records import Message
    from raystill.stages import generate

    asked = [
        Prompt(
            row["id"],
            None,
            [Message("user", row["prompt"])],
            None,
            "bench",
            "bench",
            "train",
            None,
            json.dumps({"tokens": row["tokens"]}),
        )
        for row in _rows(job)
    ]
    url = f"{job.folder}/prepare/p"
    units = [asked[i : i + job.unit_rows] for i in range(0, len(asked), job.unit_rows)]
    parts = [artifacts.write_part(url, "train", Prompt, unit) for unit in units]
    prompts = artifacts.commit(Table, url, Manifest("prompts", Prompt.SCHEMA, "prepare", 1, "p", {}, {}, parts))
    teacher = Teacher.model_validate({"kind": "generate_arms:Stamped", "model": job.model, "engine": job.engine()})
    compute = Compute()
    context = Context(f"{job.folder}/generate/g", compute, Lines(io.StringIO()), 0.0, Path(job.folder))
    with session.ray_session(compute) as ensure:
        ensure()
        outcome = generate.generate(teacher, Checkpoint(job.model, "model"), prompts, None, None, context)
    manifest = Manifest("generations", Generation.SCHEMA, "generate", 1, "g", {}, {}, list(outcome.files))
    made = list(artifacts.commit(Table, context.url, manifest).rows(Generation))
    stamps = [json.loads(g.columns) for g in made]
    return Result(
        [(stamp["at"], g.output_tokens) for stamp, g in zip(stamps, made, strict=True)],
        called,
        min(published(context.url).values()),
        sorted({stamp["nice"] for stamp in stamps}),
    )


def bare(job: Job, seeded: bool = True) -> Result:
    """AsyncLLM alone, asked with token ids made before; as many requests in flight as Ray's own wrapper allows."""
    called = time.time()
    os.environ.update(
        engine.environment(os.cpu_count() or 1, engine.has_gpu())
    )  # before torch is imported, or OMP does not see it
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    started = time.time()
    rows = _rendered(job)
    called += time.time() - started  # rendering ahead is this bench's wish: the engine's start does not pay for it
    answers: list[tuple[float, int]] = []

    async def ask(llm: Any, row: dict[str, Any], free: asyncio.Semaphore) -> None:
        drawn = _sampling(row) | ({} if seeded else {"seed": None})
        params = SamplingParams(**drawn, output_kind=RequestOutputKind.FINAL_ONLY)
        async with free:
            async for output in llm.generate({"prompt_token_ids": row["ids"]}, params, row["id"]):
                answers.append((time.time(), len(output.outputs[0].token_ids)))

    async def ask_all() -> None:
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**engine.arguments(job.model, job.engine()), disable_log_stats=True)
        )
        free = asyncio.Semaphore(math.ceil(1.1 * job.max_num_seqs))
        await asyncio.gather(*(ask(llm, row, free) for row in rows))
        llm.shutdown()

    asyncio.run(ask_all())
    return Result(answers, called, min(answers)[0], [os.nice(0)])


def score(job: Job) -> Result:
    """The score stage through vLLM, as `raystill run` calls it, over units in Parquet."""
    called = time.time()
    import pyarrow.parquet as pq

    from raystill import artifacts, chat, session
    from raystill.artifacts import Checkpoint, Manifest, Table
    from raystill.context import Context
    from raystill.recipe import Compute, Score, Teacher
    from raystill.records import Example, Ids, Message
    from raystill.stages import score

    mark = chat.tokenizer_fingerprint(job.model)
    examples = [
        Example(row["id"], "teacher", 0, "train", [Message("user", row["prompt"]), Message("assistant", "")], None, [1],
                Ids(_completion(row)))
        for row in _rows(job)
    ]  # fmt: skip
    url = f"{job.folder}/curate/e"
    units = [examples[i : i + job.unit_rows] for i in range(0, len(examples), job.unit_rows)]
    parts = [artifacts.write_part(url, "train", Example, unit) for unit in units]
    facts = {"tokenizers": {"teacher": mark}}
    table = artifacts.commit(
        Table, url, Manifest("examples", Example.SCHEMA, "curate", 1, "e", {}, {}, parts, facts=facts)
    )
    compute = Compute()
    teacher = Teacher.model_validate({"model": job.model, "engine": job.engine()})
    context = Context(f"{job.folder}/score/s", compute, Lines(io.StringIO()), 0.0, Path(job.folder))
    with session.ray_session(compute) as ensure:
        ensure()
        score.score(Score(kind="vllm"), teacher, Checkpoint(job.model, "model"), table, context)
    answers = [
        (at, json.loads(pq.read_schema(path).metadata[b"counts"])["tokens"])
        for path, at in published(context.url).items()
    ]
    return Result(answers, called, min(answers)[0], [])


def bare_score(job: Job) -> Result:
    """The same engine asked for the same prompt_logprobs, with as many rows in flight; what it says is dropped.

    A unit counts when its last row is there, as when it is published.
    """
    called = time.time()
    os.environ.update(engine.environment(os.cpu_count() or 1, engine.has_gpu()))
    from vllm import SamplingParams

    from raystill.recipe import Generate, Score, Teacher
    from raystill.teachers.prompt_logprobs import PromptLogprobs

    rows = _rendered(job)
    last = [0.0] * math.ceil(len(rows) / job.unit_rows)

    async def ask(llm: Any, i: int, free: asyncio.Semaphore) -> None:
        params = SamplingParams(
            max_tokens=1, temperature=0, prompt_logprobs=Score().k, detokenize=False, flat_logprobs=True
        )
        async with free:
            async for _ in llm.generate({"prompt_token_ids": rows[i]["ids"] + _completion(rows[i])}, params, str(i)):
                pass
        last[i // job.unit_rows] = time.time()

    async def ask_all() -> None:
        teacher = Teacher.model_validate({"model": job.model, "engine": job.engine()})
        llm = PromptLogprobs(Score(kind="vllm"), teacher, job.model).llm
        free = asyncio.Semaphore(Generate().units_in_flight * job.unit_rows)
        await asyncio.gather(*(ask(llm, i, free) for i in range(len(rows))))
        llm.shutdown()

    asyncio.run(ask_all())
    tokens = [0] * len(last)
    for i, row in enumerate(rows):
        tokens[i // job.unit_rows] += row["tokens"]
    answers = list(zip(last, tokens, strict=True))
    return Result(answers, called, min(answers)[0], [os.nice(0)])


def _completion(row: dict[str, Any]) -> list[int]:
    """An answer to score, of the row's length; no id beyond the smallest of vocabularies."""
    return [(row["seed"] + 7 * i) % 256 for i in range(row["tokens"])]


def ray_data_llm(job: Job, best: bool) -> Result:
    """`ray.data.llm`, writing Parquet.

    At its best: token ids made before, no stage but the engine's, blocks of one batch, batches enough to overlap, the
    engine's cores, no statistics. With its defaults: what cannot run without a GPU is set, and nothing else; Ray then
    gives the engine one thread.
    """
    called = time.time()
    import pyarrow.parquet as pq
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    cpus = os.cpu_count() or 1
    environment = engine.environment(cpus, engine.has_gpu())
    arguments = {k: v for k, v in engine.arguments(job.model, job.engine()).items() if k != "model"}
    bundle = {"CPU": cpus if best else 1} | ({"GPU": 1} if engine.has_gpu() else {})
    if best:
        options: dict[str, Any] = {
            "batch_size": 32,
            "max_concurrent_batches": 16,
            "concurrency": (1, 1),
            "chat_template_stage": False,
            "tokenize_stage": False,
            "detokenize_stage": False,
            "log_engine_metrics": False,
        }
        arguments["disable_log_stats"] = True
        rows = _rendered(job)
    else:
        options = {}
        environment.pop("OMP_NUM_THREADS", None)
        rows = _rows(job)

    ray.init(num_cpus=max(cpus, 8), include_dashboard=False)
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=job.model,
            engine_kwargs=arguments,
            placement_group_config={"bundle_per_worker": bundle},
            runtime_env={"env_vars": environment},
            **options,
        ),
        preprocess=_with_ids if best else _with_messages,
        postprocess=_answered,
    )
    name = "vLLMEngineStage"
    stage = processor.get_stage_by_name(name)
    # A copy: assigning to the stage would run its validator a second time, which then finds no bundle and asks for a GPU.
    processor.stages[name] = stage.model_copy(update={"fn": _stamping(stage.fn, final_only=best)})
    blocks = math.ceil(len(rows) / 32) if best else None
    out = f"{job.folder}/out"
    processor(ray.data.from_items(rows, override_num_blocks=blocks)).write_parquet(out)
    ray.shutdown()
    made = pq.read_table(out).to_pylist()
    answers = [(row["at"], row["tokens"]) for row in made]
    return Result(answers, called, min(answers)[0], sorted({row["nice"] for row in made}))


def _stamping(engine_stage: type, final_only: bool) -> type:
    """Ray's engine stage, stamping each row as Stamped does.

    `final_only` spares it a copy of every unfinished answer per step; its rows could carry that option only as a pickle.
    """

    class StampedStage(engine_stage):  # type: ignore[misc]
        async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
            from vllm.sampling_params import RequestOutputKind

            for row in batch if final_only else []:
                row["sampling_params"]["output_kind"] = RequestOutputKind.FINAL_ONLY
            async for row in super().udf(batch):
                yield row | {"at": time.time(), "nice": os.nice(0)}

    return StampedStage


def _with_ids(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "tokenized_prompt": row["ids"], "sampling_params": _sampling(row)}


def _with_messages(row: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": row["prompt"]}]
    return {"id": row["id"], "messages": messages, "sampling_params": _sampling(row)}


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    made = {"text": row["generated_text"], "tokens": row["num_generated_tokens"]}
    return made | {key: row[key] for key in ("id", "at", "nice")}


def _sampling(row: dict[str, Any]) -> dict[str, Any]:
    """What raystill asks by default (0.7, a seed per row), with this row's length."""
    tokens, seed = int(row["tokens"]), int(row["seed"])
    return {"temperature": 0.7, "top_p": 1.0, "max_tokens": tokens, "ignore_eos": True, "seed": seed}


def _rows(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(job.rows).read_text().splitlines()]


def _rendered(job: Job) -> list[dict[str, Any]]:
    """The rows with the ids that raystill would give the engine."""
    from raystill import chat
    from raystill.records import Message

    tokenizer = chat.load_tokenizer(job.model)
    return [row | {"ids": chat.prompt_ids(tokenizer, [Message("user", row["prompt"])])} for row in _rows(job)]


ARMS: dict[str, Callable[[Job], Result]] = {
    "raystill": raystill,
    "bare": bare,
    "score": score,
    "bare-score": bare_score,
    "bare-unseeded": lambda job: bare(job, seeded=False),
    "ray.data.llm": lambda job: ray_data_llm(job, best=True),
    "ray.data.llm-default": lambda job: ray_data_llm(job, best=False),
}

if __name__ == "__main__":
    arm, job_file, result_file = sys.argv[1:]
    result = ARMS[arm](Job(**json.loads(Path(job_file).read_text())))
    Path(result_file).write_text(json.dumps(dataclasses.asdict(result)))
