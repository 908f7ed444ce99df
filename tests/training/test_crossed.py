"""Targets in another tokenizer's ids: the same bytes at both ends, no mass lost, no bias."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHAT_TEMPLATE, LINES, build_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from raystill import chat, plugins, recipe, targets
from raystill.losses import KINDS
from raystill.records import Ids, Message, Targets
from raystill.teachers import forward, tokens
from raystill.training import batches, crossed, soft
from raystill.training.objective import objective
from raystill.training.soft import Span

CPU = torch.device("cpu")
SMOL = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct"


def spaced() -> Any:
    """A tokenizer in the manner of SentencePiece: ▁ for spaces, one before the text, single bytes for the rest."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    bpe.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=380, special_tokens=["<unk>", "</s>", *roles, *bytes_], show_progress=False),
    )
    # Bytes are tokens of the vocabulary, as in Llama's, and not special ones.
    parts = json.loads(bpe.to_str())
    parts["added_tokens"] = [t for t in parts["added_tokens"] if not t["content"].startswith("<0x")]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)), eos_token="</s>", extra_special_tokens=roles
    )
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {
        "large": chat.load_tokenizer(str(build_tiny_model(folder / "large"))),
        "small": chat.load_tokenizer(str(build_tiny_model(folder / "small", vocabulary=300))),
        "spaced": spaced(),
    }
    # In another order, too.
    assert len({chat.fingerprint(t) for t in made.values()}) == 3
    return made


TEXTS = [*LINES, "Größe: 3 m² – naïve café", "  two  spaces\n\n\tand a tab ", "日本語 🙂 <|user|", "a"]


@pytest.mark.parametrize("name", ["large", "small", "spaced"])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_bytes_are_those_of_the_text(tokenizers: dict[str, Any], name: str, text: str) -> None:
    of = tokens.of(tokenizers[name])
    ids = tokenizers[name](text, add_special_tokens=False)["input_ids"]
    written = b"".join(of.text[i] or b"" for i in ids)
    assert written.removeprefix(b" " if name == "spaced" else b"") == text.encode()
    assert tokens.Tokens.load(of.dump()) == of
    assert of.text[of.stop] is None


def answers(tokenizer: Any, text: str) -> list[int]:
    encoded = chat.encode(tokenizer, [Message("user", "Hello."), Message("assistant", text)], [1])
    return [i for i, learnt in zip(encoded.input_ids, encoded.loss_mask, strict=True) if learnt]


def brute(of: tokens.Tokens, ids: list[int]) -> list[tuple[bytes, bytes] | None]:
    """For each token all bytes before it and its own."""
    found: list[tuple[bytes, bytes] | None] = []
    before = b""
    for i in ids:
        text = of.text[i]
        found.append(None if text is None else (before, text))
        before += text or b""
    return found


@pytest.mark.parametrize("pair", [("large", "small"), ("small", "large"), ("large", "spaced"), ("spaced", "small")])
@given(text=st.one_of(st.sampled_from(TEXTS[:-1]), st.text(min_size=1, max_size=20).filter(lambda t: t.strip() == t)))
@settings(max_examples=40, deadline=None)
def test_places_are_those_where_both_write_the_same_bytes_next(
    tokenizers: dict[str, Any], pair: tuple[str, str], text: str
) -> None:
    ours, theirs = (tokens.of(tokenizers[name]) for name in pair)
    our_ids, their_ids = (answers(tokenizers[name], text) for name in pair)
    places = crossed.aligned(ours, our_ids, theirs, their_ids)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(places))
    mine, yours = brute(ours, our_ids), brute(theirs, their_ids)
    if "spaced" not in pair:
        wanted = [(i, j) for i, a in enumerate(mine) for j, b in enumerate(yours) if a and a == b]
        texts = [b"".join(x[1] for x in side if x) for side in (mine, yours)]
        assert places == [*wanted, *([(len(mine) - 1, len(yours) - 1)] if texts[0] == texts[1] else [])]
    for i, j in places:
        a, b = mine[i], yours[j]
        assert (a is None) == (b is None)
        if a and b:
            assert a[1] == b[1] and a[0].removeprefix(b" ") == b[0].removeprefix(b" ")


def test_an_answer_that_differs_is_aligned_up_to_there() -> None:
    known = tokens.Tokens([b"a", b"b", b"ab", None, b" a", b"c"], 3)
    other = tokens.Tokens([b"a", b"b", b"c", b"bc", None, b"ca"], 4)
    assert crossed.aligned(known, [0, 1, 5, 3], other, [0, 1, 2, 4]) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert crossed.aligned(known, [0, 1, 5, 3], other, [0, 3, 4]) == [(0, 0), (3, 2)]  # bc is one token over there
    assert crossed.aligned(known, [2, 5, 3], other, [0, 1, 2, 4]) == [(1, 2), (2, 3)]
    assert crossed.aligned(known, [4, 1, 3], other, [0, 1, 4]) == [(1, 1), (2, 2)]  # " a" is not "a"
    assert crossed.aligned(known, [4, 1, 3], known, [4, 1, 3]) == [(0, 0), (1, 1), (2, 2)]
    assert crossed.aligned(known, [0, 1, 1, 3], other, [0, 1, 2, 4]) == [(0, 0), (1, 1)]
    assert crossed.aligned(known, [0, 1], other, [0, 1, 4]) == [(0, 0), (1, 1)]
    assert crossed.aligned(known, [3], other, []) == []


def pushed(teacher_TV: np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
    """The teacher's distribution over the student's ids, with what stands for none of them last."""
    out = np.zeros((len(teacher_TV), size + 1))
    for i, number in enumerate(numbers):
        out[:, number if number >= 0 else size] += teacher_TV[:, i]
    return out


def held(
    writer_of: dict[str, Any], support: str, teacher_TV: np.ndarray, seed: int = 0
) -> tuple[crossed.Writer, np.ndarray]:
    """A writer between two tokenizers, and its records of a distribution as a store packs it."""
    theirs, ours = (tokens.of(writer_of[name]) for name in ("large", "small"))
    writer = crossed.Writer(Path("/dev/null").open("wb"), support, len(ours.text), theirs, ours)  # noqa: SIM115
    logprobs = torch.as_tensor(np.log(teacher_TV)).float()
    if support == "top_k":
        packed = targets.pack_topk(*forward.top_k(logprobs, 12), logprobs.shape[1])
    else:
        packed = targets.pack_sampled(*forward.sampled(logprobs, 12, seed), logprobs.shape[1])
    return writer, soft.renumbered(soft.decoded(support, packed), writer.numbers)


def peaked(n: int, size: int, seed: int) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.full(size, 0.05), n) + 1e-7
    return p / p.sum(1, keepdims=True)


def as_soft(rows: np.ndarray, beyond: np.ndarray | None = None) -> Any:
    from raystill.training.objective import Soft

    ids, logprobs = (torch.as_tensor(rows[name].copy()) for name in ("ids", "logprobs"))
    mask = None if beyond is None else torch.as_tensor(beyond > 0)
    return Soft(ids.long(), logprobs, torch.ones(len(rows)), True, mask)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon", "adaptive_kl", "generalised_kl"])
def test_carried_targets_give_the_gradient_of_the_merged_distributions(tokenizers: dict[str, Any], kind: str) -> None:
    teacher = peaked(8, len(tokenizers["large"]), 0)
    writer, rows = held(tokenizers, "top_k", teacher)
    rows = rows[soft.lists(rows)]
    np.testing.assert_allclose(np.exp(rows["logprobs"].astype(np.float64)).sum(1), 1, atol=1e-5)
    size = len(tokenizers["small"])
    student = torch.randn(len(rows), size, generator=torch.Generator().manual_seed(1))
    loss = objective(recipe.Loss(kind=kind), 1.0)
    leaf = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, torch.zeros(len(rows)).long(), as_soft(rows)).sum(), leaf)
    exact = student.double().requires_grad_()
    wanted = torch.zeros((), dtype=torch.float64)
    for t, row in enumerate(rows):
        listed = row["logprobs"][:-1] > -1e29
        ids = torch.as_tensor(row["ids"][listed].astype(np.int64))
        p = torch.as_tensor(np.exp(row["logprobs"][:-1][listed].astype(np.float64)))
        q = exact[t].softmax(0)
        classes = [torch.cat([x[ids] if x.shape[0] == size else x, rest]) for x, rest in (
            (p, (1 - p.sum())[None]), (q, (1 - q[ids].sum())[None]))]  # fmt: skip
        divergence = plugins.load(kind, KINDS, "loss")
        wanted = wanted + divergence(classes[0].log()[None], classes[1].log()[None]).sum()
    (gradient,) = torch.autograd.grad(wanted, exact)
    torch.testing.assert_close(found.double(), gradient, rtol=1e-3, atol=1e-5)
    assert 0 < soft.mass(rows) < len(rows)
    assert writer.numbers[writer.theirs.stop] == writer.ours.stop


def test_carried_ids_keep_their_probability_and_the_tail_takes_the_rest(tokenizers: dict[str, Any]) -> None:
    teacher = peaked(20, len(tokenizers["large"]), 3)
    writer, rows = held(tokenizers, "top_k", teacher)
    wanted = pushed(teacher, writer.numbers, len(tokenizers["small"]))
    for row, p in zip(rows, wanted, strict=True):
        listed = row["logprobs"][:-1] > -1e29
        np.testing.assert_allclose(
            row["logprobs"][:-1][listed], np.log(p[row["ids"][listed]]), atol=targets.STEP + 0.001
        )
    assert (writer.numbers < 0).any()


def test_draws_carried_over_have_the_dense_gradient_in_the_mean(tokenizers: dict[str, Any]) -> None:
    """Of 20,000 positions, each id's mean gradient lies within 5 standard errors of the merged distributions' own."""
    repeats, draws, size = 20_000, 12, len(tokenizers["small"])
    one = np.random.default_rng(4).dirichlet(np.full(len(tokenizers["large"]), 0.3), 1)
    writer, rows = held(tokenizers, "sampled", np.repeat(one, repeats, 0), seed=5)
    beyond = writer.beyond()
    assert beyond.any() and np.exp(rows["logprobs"][:, -1]).mean() > 0.05
    student = torch.randn(1, size, generator=torch.Generator().manual_seed(2))
    total = np.zeros(size)
    for part in np.array_split(rows, 20):
        leaf = student.expand(len(part), -1).clone().requires_grad_()
        loss = objective(recipe.Loss(kind="forward_kl"), 1.0)(
            leaf, torch.zeros(len(part)).long(), as_soft(part, beyond)
        )
        (found,) = torch.autograd.grad(loss.sum(), leaf)
        total += found.double().sum(0).numpy()
    p, q = pushed(one, writer.numbers, size)[0], student[0].double().softmax(0).numpy()
    outside = np.where(beyond, q, 0) / q[beyond > 0].sum()
    wanted = q - p[:-1] - p[-1] * outside
    error = np.sqrt((p[:-1] + p[-1] * outside**2) / (draws * repeats)) + 1e-7
    assert np.abs((total / repeats - wanted) / error).max() < 5
    # Had the last class been all ids that were not drawn, the same statistic would say so.
    leaf = student.expand(2000, -1).clone().requires_grad_()
    loss = objective(recipe.Loss(kind="forward_kl"), 1.0)(leaf, torch.zeros(2000).long(), as_soft(rows[:2000]))
    (found,) = torch.autograd.grad(loss.sum(), leaf)
    assert np.abs((found.double().mean(0).numpy() - wanted) / (error * np.sqrt(10))).max() > 20


def test_an_example_is_written_and_read_back_where_it_is_aligned(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = tokenizers["large"], tokenizers["small"]
    text = "Where is the blue kettle, and what is your return policy?"
    said = [Message("user", "Hello."), Message("assistant", text)]
    encoded, their_ids = chat.encode(ours, said, [1]), answers(theirs, text)
    teacher = peaked(len(their_ids), len(theirs), 6)
    teacher[np.arange(len(their_ids)), their_ids] += 5  # it knows what it wrote
    teacher /= teacher.sum(1, keepdims=True)
    packed = targets.pack_topk(*forward.top_k(torch.as_tensor(np.log(teacher)).float(), 8), len(theirs))
    with (tmp_path / soft.FILE).open("wb") as file:
        writer = crossed.Writer(file, "top_k", len(ours), tokens.of(theirs), tokens.of(ours))
        span = writer(Targets("a", "t", 0, "train", Ids(their_ids), packed), encoded)
        assert writer(None, encoded) == Span()
    places = crossed.aligned(writer.ours, answers(ours, text), writer.theirs, their_ids)
    assert 0 < len(places) < span.count == places[-1][0] + 1
    assert writer.saying == len(places) and 0.5 < writer.counts()["carried_mass"] < 1
    batches.store(str(tmp_path), [("train", encoded, 1.0, span)])
    micro = batches.micro(batches.read(tmp_path)["train"], [0], True, CPU)
    assert micro.soft is not None
    assert micro.soft.given_N.nonzero().flatten().tolist() == [i for i, _ in places]
    for i, _ in places:  # the likeliest is the token that both wrote
        assert micro.soft.ids_NK[i, micro.soft.teacher_NC[i, :-1].argmax()] == micro.labels_N[i]
    loss = objective(recipe.Loss(kind="reverse_kl", alpha=0.5), 1.0)
    logits = torch.randn(len(micro.labels_N), len(ours)).requires_grad_()
    loss(logits, micro.labels_N, micro.soft).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.skipif(not SMOL.is_dir(), reason="raystill fetch-model smollm2")
def test_a_real_vocabulary_meets_another(tokenizers: dict[str, Any]) -> None:
    theirs, ours = tokens.of(chat.load_tokenizer(str(SMOL))), tokens.of(tokenizers["large"])
    numbers = crossed.shared_numbers(theirs, ours)
    found = [i for i, text in enumerate(ours.text) if text and text in theirs.numbers()]
    assert set(numbers[numbers >= 0]) == {*found, ours.stop}
    text = "Hello! Your order 10482 left our warehouse on 4 May."
    ids = answers(chat.load_tokenizer(str(SMOL)), text)
    assert b"".join(theirs.text[i] or b"" for i in ids[:-1]) == text.encode()
    mine, yours = brute(ours, answers(tokenizers["large"], text)), brute(theirs, ids)
    wanted = [(i, j) for i, a in enumerate(mine) for j, b in enumerate(yours) if a and a == b]
    places = crossed.aligned(ours, answers(tokenizers["large"], text), theirs, ids)
    assert places == [*wanted, (len(mine) - 1, len(yours) - 1)] and wanted
