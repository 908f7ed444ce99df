"""How much of the teacher a store of soft targets keeps: by kept mass, by divergence, and by the gradient it gives.

    python bench/fidelity.py [--teacher FOLDER] [--data FILE.jsonl] [--tokens 65536]

The teacher scores the data's own answers (columns question, answer) by the forward pass that `score` uses; every variant
goes through the store's bytes and back. Mass and divergence are those of `raystill.teachers.fidelity`. The student is the
teacher cut to --layers and then distilled on --learn other tokens, since an untrained one is so far from the teacher that
any targets give the same gradient; how far it still is stands below the table. The gradient of the mean loss over all
tokens, with respect to all of the student's parameters, is compared with the one from the whole distribution:

    dense     KL(p, q) over the vocabulary            dL/dz = q - p
    top-k     KL over the k ids and one tail bucket   dL/dz = q - p on the k, q - q x tail / (1 - Q) elsewhere
    sampled   cross-entropy of n draws                dL/dz = q - counts / n

with q the student's probabilities and Q their sum over the k ids. T = tokens, V = vocabulary, d = width, N = ids named.

Expected: a cosine above 0.99 from k = 20 on, since a tail of 0.1 is spread by the student's own shape; 12 draws about as
good over 64k tokens, as their noise averages out; k = 1 clearly worse.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from torch import Tensor

from raystill import chat, recipe, targets
from raystill.records import Message
from raystill.teachers import fidelity, forward
from raystill.teachers.scorer import Asked

TOPK = (1, 8, 20, 50, 100)
DRAWS = (12, 50)
BATCH_TOKENS = 1024
"""Answer tokens of one batch: dense float32 distributions of 49,152 ids take 200 MB."""
LEARN_TOKENS = 256
"""Answer tokens of one step of the student's training."""
LAYERS = (0, 1, 28, 29)
SHORT = 0.45
"""Longest prompt, in lengths of its answer: a prompt's tokens cost as much and count for nothing."""


Sums = dict[int, Tensor]
"""A gradient, by the id() of each parameter: a tied embedding and head are one."""


@dataclass(frozen=True)
class Batch:
    """What the teacher thinks at T answer tokens, and the student's side: ids, their embeddings, last hidden states."""

    logprobs_TV: Tensor
    ids_BL: Tensor
    embedded_BLd: Tensor
    hidden_Td: Tensor


@dataclass(frozen=True)
class Pull:
    """A loss's gradient by the logits: scale x q - taken. Targets that name few ids take few, and taken is sparse."""

    taken_TV: Tensor
    scale_T1: Tensor | None = None


def rows(path: Path, tokenizer: chat.Tokenizer, short: float = SHORT) -> Iterator[Asked]:
    """Prompts and answers as the teacher sees them, where the prompt is at most so many lengths of its answer."""
    for line in path.read_text().splitlines():
        row = json.loads(line)
        encoded = chat.encode(tokenizer, [Message("user", row["question"]), Message("assistant", row["answer"])], [1])
        first = encoded.loss_mask.index(True)
        if first <= short * (len(encoded.input_ids) - first):
            yield Asked(encoded.input_ids[:first], encoded.input_ids[first:])


def take(source: Iterator[Asked], tokens: int) -> list[Asked]:
    """Rows until their answers hold so many tokens, or no more are there."""
    taken, held = list[Asked](), 0
    while held < tokens and (row := next(source, None)):
        taken.append(row)
        held += len(row.completion_ids)
    return taken


def batches(asked: Sequence[Asked], tokens: int) -> Iterator[list[Asked]]:
    """Rows in order, so many answer tokens at most."""
    batch: list[Asked] = []
    for row in asked:
        if batch and sum(len(r.completion_ids) for r in [*batch, row]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def run(teacher: forward.Forward, student: Any, batch: list[Asked]) -> Batch:
    """Both forward passes; the hidden states have a graph behind them."""
    pieces = zip(*teacher.chunks(batch), strict=True)
    logprobs_TV = torch.cat([torch.cat(row) for row in pieces]).log_softmax(-1).clone()
    ids = [r.prompt_ids + r.completion_ids for r in batch]
    longest = max(map(len, ids))
    ids_BL = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    embedded_BLd = student.model.embed_tokens(ids_BL)
    hidden_BLd = student.model(inputs_embeds=embedded_BLd, use_cache=False).last_hidden_state
    at = [h[len(r.prompt_ids) - 1 : len(i) - 1] for h, r, i in zip(hidden_BLd, batch, ids, strict=True)]
    return Batch(logprobs_TV, ids_BL, embedded_BLd, torch.cat(at))


def cut(folder: str, layers: Sequence[int]) -> Any:
    """The teacher with these layers alone."""
    student = forward.Forward(recipe.Score(), recipe.Teacher(kind="reference"), folder).model.requires_grad_()
    student.model.layers = torch.nn.ModuleList([student.model.layers[i] for i in layers])
    for i, layer in enumerate(student.model.layers):
        layer.self_attn.layer_idx = i
    return student


def learn(teacher: forward.Forward, student: Any, asked: Sequence[Asked]) -> None:
    """Distil the student on whole distributions, once over the rows."""
    steps = list(batches(asked, LEARN_TOKENS))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, len(steps))
    for batch in steps:
        made = run(teacher, student, batch)
        logits_TV = student.lm_head(made.hidden_Td)
        loss = torch.nn.functional.kl_div(
            logits_TV.log_softmax(-1), made.logprobs_TV, log_target=True, reduction="batchmean"
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        decay.step()


def from_topk(kept: targets.TopK, q_TV: Tensor) -> Pull:
    """KL over the k ids and one bucket for all others."""
    ids_TK, p_TK = torch.from_numpy(kept.ids_TK).long(), torch.from_numpy(kept.logprobs_TK).exp()
    q_TK = q_TV.gather(-1, ids_TK)
    rest_T1 = (1 - q_TK.sum(-1, keepdim=True)).clamp_min(1e-9)
    scale_T1 = 1 - torch.from_numpy(kept.tail_T)[:, None] / rest_T1
    row_TK = torch.arange(len(ids_TK))[:, None].expand_as(ids_TK)
    return Pull(sparse(row_TK, ids_TK, p_TK - (1 - scale_T1) * q_TK, q_TV.shape), scale_T1)


def from_draws(drawn: targets.Sampled, draws: int, q_TV: Tensor) -> Pull:
    """Cross-entropy of the draws."""
    per_T = torch.from_numpy(np.diff(drawn.offsets_T1))
    row_N = torch.repeat_interleave(torch.arange(len(per_T)), per_T)
    share_N = torch.from_numpy(drawn.counts_N).float() / draws
    return Pull(sparse(row_N, torch.from_numpy(drawn.ids_N).long(), share_N, q_TV.shape))


def pull(name: str, restored: targets.TopK | targets.Sampled, q_TV: Tensor) -> Pull:
    """The variant's gradient by the logits."""
    if isinstance(restored, targets.TopK):
        return from_topk(restored, q_TV)
    return from_draws(restored, int(name.split()[0]), q_TV)


def sparse(rows: Tensor, ids: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A [T, V] of a few values."""
    at_2N = torch.stack([rows.flatten(), ids.flatten()])
    return torch.sparse_coo_tensor(at_2N, values.flatten(), shape, check_invariants=False)


def add_gradients(student: Any, batch: Batch, q_TV: Tensor, pulls: dict[str, Pull], sums: dict[str, Sums]) -> None:
    """Add each variant's gradient of the sum over the batch's tokens.

    The head's part is written out: q times the weights and q times the hidden states are most of it, and serve all.
    """
    head_Vd, embedding = student.lm_head.weight.detach(), student.model.embed_tokens.weight
    body = [p for p in student.parameters() if p is not embedding and p is not student.lm_head.weight]
    hidden_Td = batch.hidden_Td.detach()
    q_head_Td, q_hidden_Vd = q_TV @ head_Vd, q_TV.T @ hidden_Td
    for name, pull in pulls.items():
        held = sums[name]
        at_head_Vd, pulled_Td = held[id(student.lm_head.weight)], q_head_Td
        if pull.scale_T1 is None:
            at_head_Vd += q_hidden_Vd
        else:
            at_head_Vd.addmm_(q_TV.T, pull.scale_T1 * hidden_Td)
            pulled_Td = pull.scale_T1 * q_head_Td
        at_head_Vd -= pull.taken_TV.T @ hidden_Td
        pulled_Td = pulled_Td - pull.taken_TV @ head_Vd
        *found, by_embedded = torch.autograd.grad(
            batch.hidden_Td, [*body, batch.embedded_BLd], pulled_Td, retain_graph=True
        )
        for parameter, gradient in zip(body, found, strict=True):
            held[id(parameter)] += gradient
        held[id(embedding)].index_add_(0, batch.ids_BL.flatten(), by_embedded.flatten(0, 1))


def measure(folder: str, layers: Sequence[int], data: Path, tokens: int, learnt: int) -> dict[str, Any]:
    """One row per variant, the tokens they were measured over, and KL(teacher, student) per token.

    Raises ValueError when the student's learning leaves no row to measure.
    """
    source = rows(data, chat.load_tokenizer(folder))
    taught, asked = take(source, learnt), take(source, tokens)
    taught_tokens, total = (sum(len(r.completion_ids) for r in taken) for taken in (taught, asked))
    if not total:
        raise ValueError(
            f"{data}: nothing is left to measure: its rows with prompts short enough have {taught_tokens} answer tokens, "
            f"and the student learns from {learnt}; name a longer file or learn from fewer"
        )
    teacher = forward.Forward(recipe.Score(), recipe.Teacher(kind="reference"), folder)
    student = cut(folder, layers)
    began = time.perf_counter()
    learn(teacher, student, taught)
    print(f"the student has learnt for {time.perf_counter() - began:.0f} s", file=sys.stderr)
    names = ["dense", *(f"top-{k}" for k in TOPK), *(f"{n} draws" for n in DRAWS)]
    sums = {name: {id(p): torch.zeros_like(p) for p in student.parameters()} for name in names}
    keeps = {name: [fidelity.Sums()] for name in names[1:]}
    asked.sort(key=lambda r: len(r.prompt_ids) + len(r.completion_ids))
    done, apart, began = 0, 0.0, time.perf_counter()
    rng = np.random.default_rng(0)
    for rows_of_batch in batches(asked, BATCH_TOKENS):
        batch = run(teacher, student, rows_of_batch)
        with torch.no_grad():
            log_q_TV = student.lm_head(batch.hidden_Td).log_softmax(-1)
            q_TV, p_TV = log_q_TV.exp(), batch.logprobs_TV.exp()
            apart += float((p_TV * (batch.logprobs_TV - log_q_TV)).sum())
        stored = stored_variants(batch.logprobs_TV, rng)
        pulls = {"dense": Pull(p_TV)}
        for name, restored in stored.items():
            keeps[name].append(fidelity.sums(restored, [batch.logprobs_TV.numpy()]))
            pulls[name] = pull(name, restored, q_TV)
        with torch.no_grad():
            add_gradients(student, batch, q_TV, pulls, sums)
        done += len(q_TV)
        so_far = ", ".join(f"{n} {cosine(sums[n], sums['dense']):.5f}" for n in ("top-50", "12 draws"))
        per_s = done / (time.perf_counter() - began)
        print(f"{done}/{total} tokens, {per_s:.0f}/s, cosines so far: {so_far}", file=sys.stderr, flush=True)
    table = [
        {
            "variant": name,
            "mass_kept": sum(k.mass for k in keeps[name]) / total,
            "divergence": sum(k.divergence or 0.0 for k in keeps[name]) / total,
            "gradient_cosine": cosine(sums[name], sums["dense"]),
        }
        for name in names[1:]
    ]
    by_name = {row["variant"]: row["gradient_cosine"] for row in table}
    return {
        "gradient_cosine_topk50": by_name["top-50"],
        "gradient_cosine_sampled": by_name["12 draws"],
        "tokens": total,
        "student_layers": len(layers),
        "student_learnt_tokens": taught_tokens,
        "student_divergence": apart / total,
        "table": table,
    }


def stored_variants(logprobs_TV: Tensor, rng: np.random.Generator) -> dict[str, targets.TopK | targets.Sampled]:
    """Every variant as it comes back from its bytes. Smaller tops are cut from the largest."""
    vocabulary = logprobs_TV.shape[-1]
    ids_TK, kept_TK, tail_T = forward.top_k(logprobs_TV, max(TOPK))
    found: dict[str, targets.TopK | targets.Sampled] = {}
    for k in TOPK:
        more_T = np.exp(kept_TK[:, k:].astype(np.float64)).sum(-1)
        found[f"top-{k}"] = targets.unpack_topk(
            targets.pack_topk(ids_TK[:, :k], kept_TK[:, :k], tail_T + more_T, vocabulary)
        )
    for n in DRAWS:
        drawn = forward.sampled(logprobs_TV, n, rng)
        found[f"{n} draws"] = targets.unpack_sampled(targets.pack_sampled(*drawn, vocabulary))
    return found


def cosine(a: Sums, b: Sums) -> float:
    """Cosine of two gradients over all parameters."""
    dot = sum(float((a[p].double() * b[p].double()).sum()) for p in a)
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in side.values())) for side in (a, b)]
    return dot / (norms[0] * norms[1])


def lines(found: dict[str, Any]) -> list[str]:
    """The table."""
    out = [
        f"{'variant':<10} {'mass kept':>10} {'divergence':>11} {'gradient cosine':>16}   over {found['tokens']} tokens"
    ]
    for row in found["table"]:
        shown = f"{row['mass_kept']:>10.4f} {row['divergence']:>11.4f} {row['gradient_cosine']:>16.5f}"
        out.append(f"{row['variant']:<10} {shown}")
    student = f"student of {found['student_layers']} layers, distilled on {found['student_learnt_tokens']} other tokens"
    return [*out, f"{student}: KL(teacher, student) {found['student_divergence']:.3f} nats per token"]


def main() -> None:
    """The table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="models/smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, default=Path("data/gsm8k/train.jsonl"))
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--tokens", type=int, default=65_536, help="answer tokens that are measured")
    parser.add_argument("--learn", type=int, default=16_384, help="answer tokens that the student learns from before")
    asked = parser.parse_args()
    for needed in (Path(asked.teacher), asked.data):
        if not needed.exists():
            sys.exit(f"{needed} is not there; name another with --teacher or --data")
    began = time.perf_counter()
    try:
        found = measure(asked.teacher, asked.layers, asked.data, asked.tokens, asked.learn)
    except ValueError as e:
        sys.exit(str(e))
    print("\n".join(lines(found)))
    made = {"bench": "fidelity", **found, **machine.seen()}
    print(json.dumps(made | {"seconds": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
