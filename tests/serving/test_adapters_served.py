"""Students that are LoRA adapters of one base over one vLLM engine: they say what their merged weights say, and give way to
others while they are asked."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from callers import calling, servers

from raystill import recipe, session
from raystill.artifacts import ADAPTER, Checkpoint, Manifest
from raystill.context import Context
from raystill.errors import StageError
from raystill.recipe import Compute, Serve
from raystill.stages import serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 16, "temperature": 0}


def adapted(folder: Path, base: Checkpoint, seed: int) -> Checkpoint:
    """A student as train exports it: merged weights, and the adapter beside them."""
    import torch
    from transformers import AutoModelForCausalLM

    from raystill.training import adapters

    model = AutoModelForCausalLM.from_pretrained(base.folder())
    adapters.attach(model, recipe.Lora(r=4))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    plain, merged = adapters.detach(model, state, folder / ADAPTER, base)
    plain.save_pretrained(folder, state_dict=merged)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(base.folder()) / file, folder)
    config = {"train": {"lora": {"quantize": None}}}
    return Checkpoint(str(folder), folder.name, Manifest("model", 1, "train", 1, folder.name, config, {}, [], {}, {}))


def says(model: Checkpoint) -> str:
    """The greedy answer of a model in plain transformers, less the letter that it ends within: vLLM holds that back."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.folder())
    ids = tokenizer.apply_chat_template(
        ASK["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    loaded = AutoModelForCausalLM.from_pretrained(model.folder())
    out = loaded.generate(**ids, max_new_tokens=ASK["max_tokens"], do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)).rstrip("\ufffd")


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Two students with equal baselines."""
    base, folder = Checkpoint(str(tiny_model), "base"), tmp_path_factory.mktemp("students")
    return {
        "a-baseline": base,
        "a": adapted(folder / "a", base, 1),
        "b-baseline": base,
        "b": adapted(folder / "b", base, 2),
    }


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def endpoint(models: dict[str, Checkpoint], context: Context) -> Iterator[serve.Endpoint]:
    with serve.serve(models, Serve(adapters=True), context, port=0, finish_s=60) as made:
        yield made


def answer(endpoint: serve.Endpoint, model: str) -> dict[str, Any]:
    asked = httpx.post(f"{endpoint.base_url}/v1/chat/completions", json={**ASK, "model": model}, timeout=60)
    assert asked.status_code == 200, asked.text
    made: dict[str, Any] = asked.json()
    return made


def test_adapters_over_one_engine_say_what_merged_students_say(
    endpoint: serve.Endpoint, models: dict[str, Checkpoint]
) -> None:
    assert len(servers("")) == 1
    listed = {m["id"] for m in httpx.get(f"{endpoint.base_url}/v1/models").json()["data"]}
    assert listed == set(models)
    texts = {name: answer(endpoint, name)["choices"][0]["message"]["content"] for name in models}
    assert texts == {name: says(model) for name, model in models.items()}
    assert len({texts["a"], texts["b"], texts["a-baseline"]}) == 3
    assert answer(endpoint, "b")["model"] == "b"
    stats = endpoint.stats()
    assert stats["a"]["peak_memory_bytes"] == stats["b"]["peak_memory_bytes"] > 100 << 20


def test_another_students_adapter_takes_over_while_requests_come_in_and_a_broken_one_does_not(
    endpoint: serve.Endpoint, models: dict[str, Checkpoint], context: Context, tmp_path: Path
) -> None:
    asked, shared = {**ASK, "model": "a"}, Serve(adapters=True)
    second = adapted(tmp_path / "second", models["a-baseline"], 3)
    before, after = says(models["a"]), says(second)
    with calling(endpoint.base_url, asked, at_once=2) as callers:
        changed = serve.replace(endpoint, {**models, "a": second}, shared, context)
        callers.heard_more(4)
        last = len(callers.texts)
    assert callers.failed == []
    assert (callers.texts[0], set(callers.texts[last:]), set(callers.texts)) == (before, {after}, {before, after})

    broken = adapted(tmp_path / "broken", models["a-baseline"], 4)
    (Path(broken.url) / ADAPTER / "adapter_model.safetensors").write_bytes(b"no weights")
    with (
        calling(endpoint.base_url, asked, at_once=2) as callers,
        pytest.raises(StageError, match="could not be served"),
    ):
        serve.replace(changed, {**models, "a": broken}, shared, context)
    assert callers.failed == []
    assert set(callers.texts) == {after}
