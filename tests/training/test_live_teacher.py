"""A live teacher sees its own view of each prompt, and speaks about the very tokens that the student learns."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from raystill import chat, plugins, recipe
from raystill.chat import Encoded
from raystill.errors import ModelError
from raystill.losses import ABSENT, KINDS, TEXT, traits
from raystill.records import Example, Ids, Message
from raystill.training import batches, causal, chunks, documents, live
from raystill.training.beside import Beside
from raystill.training.dense import Dense
from raystill.training.learner import Learner
from raystill.training.matching import Matching
from raystill.training.objective import objective
from raystill.training.soft import Span

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
STUDENT = LlamaConfig(**SHAPE, num_hidden_layers=2)
TEACHER = LlamaConfig(**SHAPE | {"hidden_size": 48, "head_dim": 12, "vocab_size": 97}, num_hidden_layers=5)
# A system prompt that only the teacher sees, the student's own one, none at all, and an earlier turn that carries loss
PROMPTS = [([3, 4, 5, 6, 7, 8], [6, 7, 8]), ([1, 9, 7], [2, 2, 9, 7]), ([5, 6], [5, 6]), ([8, 8, 8, 4], [8, 8, 8, 4])]


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made, in bytes."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            self.nbytes = max(self.nbytes, made.nbytes if isinstance(made, Tensor) else 0)
        return out


def corpus(folder: Path) -> batches.Corpus:
    """Examples whose teacher sees the first prompt and whose student sees the second, the last one without a teacher."""
    rng = np.random.default_rng(0)
    rows, seen = [], []
    for i, (theirs, ours) in enumerate(PROMPTS):
        answer = rng.integers(10, 97, 3 + i).tolist()
        earlier = [False] * len(ours) if i != 3 else [False, True, False, False]
        last = i == len(PROMPTS) - 1
        ids = [*theirs, *answer]
        span = Span(sum(len(s) for s in seen), sum(earlier), len(answer))
        if i == 1:
            ids, span = ids[:-1], replace(span, count=span.count - 1)  # another stop token than the teacher's
        rows.append(("train", Encoded([*ours, *answer], [*earlier, *[True] * len(answer)]), 1.0 + i / 2, span))
        seen.append([len(ids), *ids])
        if last:
            rows.append(("train", Encoded([7, 8, 30, 31], [False, False, True, True]), 1.0, Span()))
    batches.store(str(folder), rows)
    np.concatenate([np.array(s, "<i4") for s in seen]).tofile(folder / live.FILE)
    return batches.read(folder)["train"]


def models() -> tuple[Any, Any]:
    torch.manual_seed(1)
    made = [AutoModelForCausalLM.from_config(c, attn_implementation=documents.register()) for c in (STUDENT, TEACHER)]
    return made[0], made[1].eval().requires_grad_(False)


def beside(teacher: Any, view: live.View) -> Beside:
    made = Beside.__new__(Beside)
    made.model, made.headed = teacher, causal.headed(teacher, view.inputs)
    return made


TOLD: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True, "use_cache": True}


def plain(model: Any) -> Any:
    """A model's copy in float64, whose attention can tell its maps."""
    copy = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").double()
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def test_the_teacher_speaks_about_the_answers_tokens_in_its_own_view(tmp_path: Path) -> None:
    of = corpus(tmp_path)
    _, teacher = models()
    micro = batches.micro(of, [3, 2, 1, 0, 4], True, CPU)
    view = micro.view
    assert view is not None and not view.everywhere
    # The earlier turn of the fourth, the stop token of the second and both tokens of the last have no teacher.
    assert view.given_N.tolist() == [0] + [1] * 6 + [1] * 5 + [1] * 3 + [0] + [1] * 3 + [0, 0]
    theirs = beside(teacher, view)(view, [], [])
    at = 1
    for i, count in ((3, 6), (2, 5), (1, 3), (0, 3)):
        prompt = PROMPTS[i][0]
        ids = [*prompt, *of.ids[of.starts[i] : of.ends[i]].tolist()[len(PROMPTS[i][1]) :]]
        wanted = plain(teacher)(torch.tensor([ids])).logits[0, len(prompt) - 1 : len(prompt) - 1 + count]
        torch.testing.assert_close(theirs.logits(slice(at, at + count)).double(), wanted, rtol=1e-4, atol=1e-5)
        at += count + (i == 1)
    # What both sides read alike: the user's own words and the answer, and always one token less than either side has.
    shared = {pair.theirs.stop - pair.theirs.start: pair.shared for pair in view.pairs}
    assert shared == {9: 8, 6: 5, 5: 4, 8: 4}


def test_writer_and_reader_agree(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    said = [Message("user", "Where is order 1?"), Message("assistant", "It is late.")]
    example = Example("a", "t", 0, "train", said, None, [1], Ids([]))
    encoded = chat.encode(tokenizer, said, [1])
    teacher = recipe.Teacher(model=str(tiny_model), system="Be brief.")
    with (tmp_path / live.FILE).open("wb") as file:
        writer = live.Writer(file, teacher, str(tiny_model), tokenizer)
        spans = [writer(example, encoded) for _ in range(2)]
        writer.context = 10
        assert writer(example, encoded) == Span()
    batches.store(str(tmp_path), [("train", encoded, 1.0, span) for span in spans])
    of = batches.read(tmp_path)["train"]
    seen = chat.encode(tokenizer, [Message("system", "Be brief."), *said], [2])
    start = spans[1].start
    assert of.seen is not None and of.seen[start + 1 : start + 1 + of.seen[start]].tolist() == seen.input_ids
    assert spans[0].count == sum(encoded.loss_mask)
    micro = batches.micro(of, [0, 1], True, CPU)
    assert micro.view is not None and micro.view.everywhere
    ids = micro.view.inputs["input_ids"][0]
    assert ids[micro.view.columns_N[1:4]].tolist() == micro.labels_N[:3].tolist()


def test_another_tokenizer_is_refused_and_another_stop_token_is_left_out(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    other = build_tiny_model(tmp_path / "other", vocabulary=300)
    with (tmp_path / "x").open("wb") as file:
        with pytest.raises(ModelError, match=r"another tokenizer.*score: \{k: 50\}"):
            live.Writer(file, recipe.Teacher(model=str(other)), str(other), tokenizer)
        stops = chat.load_tokenizer(str(tiny_model))
        stops.chat_template = stops.chat_template.replace("{{ eos_token }}", "<|pad|>")
        said = [Message("user", "Hello."), Message("assistant", "Hello!")]
        encoded = chat.encode(stops, said, [1])
        span = live.Writer(file, recipe.Teacher(model=str(tiny_model)), str(tiny_model), stops)(
            Example("a", "t", 0, "train", said, None, [1], Ids([])), encoded
        )
    assert span.count == sum(encoded.loss_mask) - 1


def reference(
    of: batches.Corpus, student: Any, teacher: Any, loss: recipe.Loss, matching: Matching | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss in float64 from whole logits, hidden states and attention maps of plain models, and its gradient."""
    learns, says = plain(student), plain(teacher)
    projections = [p.weight.detach().double().requires_grad_() for p in matching.projections] if matching else []
    total = torch.zeros((), dtype=torch.float64)
    temperature = loss.temperature or 1.0
    for i in range(len(of)):
        ids = of.ids[of.starts[i] : of.ends[i]].tolist()
        mask = of.mask[of.starts[i] + 1 : of.ends[i]].astype(bool)
        ours = learns(torch.tensor([ids[:-1]]), **TOLD)
        at = np.flatnonzero(mask)
        start, first, count = of.spans_E3[i]
        text = torch.nn.functional.cross_entropy(ours.logits[0, at], torch.tensor(ids)[1:][mask], reduction="none")
        weight = float(of.weights[i])
        if not count:
            total = total + weight * text.sum()
            continue
        shown = of.seen[start + 1 : start + 1 + of.seen[start]].tolist()  # type: ignore[index]
        theirs = says(torch.tensor([shown[:-1]]), **TOLD)
        mine, yours = at[first : first + count], np.arange(len(shown) - 1 - count, len(shown) - 1)
        if loss.kind == TEXT:
            total = total + weight * text.sum()
        else:
            p = (theirs.logits[0, yours] / temperature).log_softmax(1)
            q = (ours.logits[0, mine] / temperature).log_softmax(1)
            none = torch.full((count, 1), ABSENT, dtype=torch.float64)
            divergence = plugins.load(loss.kind, KINDS, "loss")(torch.cat([p, none], 1), torch.cat([q, none], 1))
            share = torch.zeros(len(at), dtype=torch.float64)
            share[first : first + count] = loss.alpha
            total = total + weight * ((1 - share) * text).sum()
            total = total + weight * loss.alpha * temperature ** traits(loss.kind).power * divergence.sum()
        if matching and matching.layers:
            for k, (a, b) in enumerate(matching.hidden):
                s = ours.hidden_states[a + 1][0, mine] @ (projections[k].T if projections else torch.eye(32).double())
                t = theirs.hidden_states[b + 1][0, yours]
                near = (s * t).sum(1) / s.norm(dim=1) / t.norm(dim=1)
                term = 1 - near if matching.layers.measure == "cosine" else (s - t).square().mean(1)
                total = total + weight * matching.layers.weight * term.sum() / len(matching.hidden)
        if matching and matching.attention:
            shared = next(
                n for n in range(99) if n + 1 in (mine[-1] + 1, len(shown) - 1) or ids[mine[-1] - n] != shown[-2 - n]
            )
            for a, b in matching.looks:
                if matching.attention.kind == "maps":
                    q, p = (m.attentions[x][0].mean(0, keepdim=True) for m, x in ((ours, a), (theirs, b)))
                else:
                    q, p = (relation(m.past_key_values.layers[x].values[0]) for m, x in ((ours, a), (theirs, b)))
                p, q = p[:, yours, : len(shown) - 1], q[:, mine, : mine[-1] + 1]
                p, q = (
                    torch.cat([x[..., : x.shape[2] - shared].sum(-1, keepdim=True), x[..., x.shape[2] - shared :]], 2)
                    for x in (p, q)
                )
                if matching.attention.measure == "mse":
                    term = (p - q).square().sum(-1).mean(0)
                else:
                    term = torch.where(p > 0, p * (p.log() - q.clamp_min(1e-300).log()), 0).sum(-1).mean(0)
                total = total + weight * matching.attention.weight * term.sum() / len(matching.looks)
    named = dict(learns.named_parameters()) | {f"projection {i}": p for i, p in enumerate(projections)}
    found = torch.autograd.grad(total, list(named.values()))
    return total, dict(zip(named, found, strict=True))


def relation(values_KTd: Tensor) -> Tensor:
    """Two relation heads of a layer's values [heads, T, d]: as many as both models have value heads."""
    scores = values_KTd @ values_KTd.transpose(1, 2) / math.sqrt(values_KTd.shape[2])
    return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf).softmax(-1)


LOSSES = {
    **{kind: {"kind": kind, "temperature": 2.0, "alpha": 0.7} for kind in KINDS if kind != TEXT},
    "cosine": {"kind": TEXT, "layers": {"weight": 0.5}},
    "mse": {"kind": "forward_kl", "layers": {"measure": "mse", "map": [[0, 1], [1, 4]]}},
    "maps": {"kind": TEXT, "attention": {"kind": "maps", "weight": 3, "map": "uniform"}},
    "squared maps": {"kind": TEXT, "attention": {"kind": "maps", "measure": "mse"}},
    "values": {"kind": "reverse_kl", "attention": {"kind": "values"}, "layers": {"map": "last"}},
}


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("chunk", [3, 1000])
def test_loss_and_gradient_are_those_of_whole_distributions_in_float64(
    case: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 97 * chunk)
    of, loss = corpus(tmp_path), recipe.Loss.model_validate(LOSSES[case])
    student, teacher = models()
    micro = batches.micro(of, [3, 2, 1, 0, 4], True, CPU)
    assert micro.view
    matching = Matching(loss, STUDENT, TEACHER) if loss.layers or loss.attention else None
    learner = Learner(student, objective(loss, loss.temperature or 1.0), beside(teacher, micro.view), matching)
    learner.look(micro)
    assert learner.chunked and learner.teacher and learner.teacher.headed
    value = learner.eval()(micro)
    wanted, gradients = reference(of, student, teacher, loss, matching)
    assert float(value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    value.backward()
    named = dict(student.named_parameters())
    named |= {f"projection {i}": p.weight for i, p in enumerate(matching.projections)} if matching else {}
    assert set(named) == set(gradients)
    for name, parameter in named.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), gradients[name], rtol=2e-4, atol=2e-5, msg=name)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any("teacher" in name for name, _ in learner.named_parameters())


@pytest.mark.parametrize("case", ["mse", "maps", "values"])
def test_activations_that_are_computed_again_change_nothing(case: str, tmp_path: Path) -> None:
    of, loss = corpus(tmp_path), recipe.Loss.model_validate(LOSSES[case])
    micro = batches.micro(of, [3, 2, 1, 0, 4], True, CPU)
    assert micro.view
    found = []
    for again in (False, True):
        student, teacher = models()
        learner = Learner(student, objective(loss, 1.0), beside(teacher, micro.view), Matching(loss, STUDENT, TEACHER))
        learner.look(micro)
        if again:
            student.gradient_checkpointing_enable({"use_reentrant": False})
            assert student.is_gradient_checkpointing and student.training
        value = learner(micro)
        value.backward()
        found.append([value.detach(), *(p.grad for p in student.parameters())])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept)


def test_a_micro_batch_without_examples_still_reaches_every_parameter(tmp_path: Path) -> None:
    of, loss = corpus(tmp_path), recipe.Loss.model_validate({**LOSSES["mse"], "attention": {}})
    student, teacher = models()
    micro = batches.micro(of, [], True, CPU)
    assert micro.view
    matching = Matching(loss, STUDENT, TEACHER)
    learner = Learner(student, objective(loss, 1.0), beside(teacher, micro.view), matching)
    learner.look(micro)
    learner(micro).backward()
    assert all(p.grad is not None and not p.grad.any() for p in learner.parameters())


def test_capped_logits_of_a_teacher_are_what_its_model_gives(tmp_path: Path) -> None:
    of = corpus(tmp_path)
    teacher = AutoModelForCausalLM.from_config(
        Gemma2Config(**SHAPE, num_hidden_layers=1, final_logit_softcapping=2.0, attn_logit_softcapping=None),
        attn_implementation=documents.register(),
    ).eval()
    micro = batches.micro(of, [2], True, CPU)
    assert micro.view
    model = beside(teacher, micro.view)
    assert not model.headed
    found = model(micro.view, [0], [0])
    with torch.no_grad():
        whole = teacher(**micro.view.inputs).logits[0, micro.view.columns_N]
    torch.testing.assert_close(found.logits(slice(None)), whole)
    assert found.layers[0].shape == (5, 32) and set(found.heads) == {0}


def test_logits_of_all_positions_never_exist_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, n, chunk = 2000, 80, 8
    configs = [
        LlamaConfig(**SHAPE | {"vocab_size": vocabulary, "hidden_size": h}, num_hidden_layers=1) for h in (32, 48)
    ]
    student, teacher = (AutoModelForCausalLM.from_config(c, attn_implementation=documents.register()) for c in configs)
    ids = list(range(3, 3 + n + 2))
    batches.store(str(tmp_path), [("train", Encoded(ids, [False] * 2 + [True] * n), 1.0, Span(0, 0, n))])
    np.array([len(ids), *ids], "<i4").tofile(tmp_path / live.FILE)
    micro = batches.micro(batches.read(tmp_path)["train"], [0], True, CPU)
    assert micro.view
    model = beside(teacher.eval().requires_grad_(False), micro.view)
    learner = Learner(student, objective(recipe.Loss(kind="reverse_kl"), 1.0), model)
    learner.look(micro)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * vocabulary * chunk)
    with Largest() as seen:
        learner(micro).backward()
    assert seen.nbytes == 4 * vocabulary * 48 < 4 * vocabulary * n  # the teacher's head, transposed or not


@pytest.mark.parametrize("sizes", [(9, 12), (12, 9)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != TEXT])
def test_rows_that_pad_an_embedding_are_one_class(kind: str, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    theirs, ours = (torch.randn(3, n, generator=generator) for n in sizes)
    dense = Dense(theirs, torch.ones(3), True)
    student = ours.clone().requires_grad_()
    p, q = dense.classes(student / 2, 2.0)
    for classes in (p, q):
        assert classes.shape == (3, 10)
        torch.testing.assert_close(classes.exp().sum(1), torch.ones(3))
    value = plugins.load(kind, KINDS, "loss")(p, q)
    assert (value >= -1e-6).all() and (value < 100).all()
    value.sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()
    exact: Callable[[Tensor], Tensor] = lambda x: (x / 2).double().softmax(1)[:, :9]  # noqa: E731
    torch.testing.assert_close(p[:, :9].exp().double(), exact(theirs), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(q[:, :9].exp().double(), exact(ours), rtol=1e-5, atol=1e-7)
