"""How much of the teacher a store of soft targets keeps: by kept mass, by divergence, and by the gradient it gives.

    python bench/fidelity.py --teacher FOLDER --data FILE.jsonl [--layers 0 5 10 ...] [--tokens 65536]

The teacher scores the data's own answers (columns question, answer) by the forward pass that `score` uses; every variant
goes through the store's bytes and back. The student is the teacher cut to --layers, untrained. The gradient of the mean
loss over all tokens, with respect to all of the student's parameters, is compared with the one from the whole distribution:

    dense     KL(p, q) over the vocabulary            dL/dz = q - p
    top-k     KL over the k ids and one tail bucket   dL/dz = q - p on the k, q - q x tail / (1 - Q) elsewhere
    sampled   cross-entropy of n draws                dL/dz = q - counts / n

with q the student's probabilities, Q their sum over the k ids. KL is that of the dense distribution against the restored
one; for top-k over the k ids and the tail, for draws over their empirical distribution it is infinite and not shown.

Expected: a cosine above 0.99 from k = 20 on, since a tail of 0.1 is spread by the student's own shape; 12 draws about as
good over 64k tokens, as their noise averages out; k = 1 clearly worse.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from raystill import chat, recipe, targets
from raystill.records import Message
from raystill.teachers import forward
from raystill.teachers.scorer import Asked

TOPK = (1, 8, 20, 50, 100)
DRAWS = (12, 50)
BATCH_TOKENS = 1024
"""Answer tokens of one batch: dense float32 distributions of 49,152 ids take 200 MB."""


def rows(path: Path, tokenizer: chat.Tokenizer, tokens: int) -> list[Asked]:
    """Prompts and answers until their answers hold so many tokens."""
    out, held = [], 0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        encoded = chat.encode(tokenizer, [Message("user", row["question"]), Message("assistant", row["answer"])], [1])
        first = encoded.loss_mask.index(True)
        out.append(Asked(encoded.input_ids[:first], encoded.input_ids[first:]))
        held += len(out[-1].completion_ids)
        if held >= tokens:
            break
    return out


def batches(asked: list[Asked]) -> Iterator[list[Asked]]:
    """Rows of similar length, BATCH_TOKENS answer tokens at most."""
    batch: list[Asked] = []
    for row in sorted(asked, key=lambda r: len(r.prompt_ids) + len(r.completion_ids)):
        if batch and sum(len(r.completion_ids) for r in [*batch, row]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def from_dense(p_TV: Tensor) -> Callable[[Tensor], Tensor]:
    """The gradient from the whole distribution."""
    return lambda q_TV: q_TV - p_TV


def from_topk(logprobs_TV: Tensor, k: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The gradient from the stored top-k, and each token's kept mass and divergence."""
    vocabulary = logprobs_TV.shape[-1]
    exact = forward.top_k(logprobs_TV, k)
    kept = targets.unpack_topk(targets.pack_topk(*exact, vocabulary))
    ids_TK = torch.from_numpy(kept.ids_TK).long()
    p_TK, tail_T1 = torch.from_numpy(kept.logprobs_TK).exp(), torch.from_numpy(kept.tail_T)[:, None]
    real_TK, real_tail_T = torch.from_numpy(exact.logprobs_TK).exp(), torch.from_numpy(exact.tail_T)
    divergence_T = (real_TK * (real_TK / p_TK).log()).sum(-1)
    divergence_T = divergence_T + torch.xlogy(real_tail_T, real_tail_T / tail_T1[:, 0].clamp_min(1e-30))

    def gradient(q_TV: Tensor) -> Tensor:
        kept_TK = q_TV.gather(-1, ids_TK)
        rest_T1 = (1 - kept_TK.sum(-1, keepdim=True)).clamp_min(1e-9)
        whole_TV = q_TV * (1 - tail_T1 / rest_T1)
        return whole_TV.scatter(-1, ids_TK, kept_TK - p_TK)

    return gradient, 1 - tail_T1[:, 0], divergence_T


def from_draws(logprobs_TV: Tensor, draws: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The gradient from stored draws."""
    drawn = targets.unpack_sampled(
        targets.pack_sampled(*forward.sampled(logprobs_TV, draws, seed), logprobs_TV.shape[-1])
    )
    offsets_T1 = torch.from_numpy(drawn.offsets_T1).long()
    position_N = torch.repeat_interleave(torch.arange(len(offsets_T1) - 1), offsets_T1.diff())
    share_N = torch.from_numpy(drawn.counts_N).float() / draws

    def gradient(q_TV: Tensor) -> Tensor:
        return q_TV.index_put((position_N, torch.from_numpy(drawn.ids_N).long()), -share_N, accumulate=True)

    return gradient


def measure(teacher: str, layers: list[int], data: Path, tokens: int) -> tuple[list[dict[str, float | str]], int]:
    """One row per variant, and the tokens they were measured over."""
    scorer = forward.Forward(recipe.Score(), recipe.Teacher(kind="reference"), teacher)
    student = forward.Forward(recipe.Score(), recipe.Teacher(kind="reference"), teacher).model
    student.model.layers = torch.nn.ModuleList([student.model.layers[i] for i in layers])
    for i, layer in enumerate(student.model.layers):
        layer.self_attn.layer_idx = i
    parameters = [p for p in student.parameters() if p.requires_grad]
    names = ["dense", *(f"top-{k}" for k in TOPK), *(f"{n} draws" for n in DRAWS)]
    sums = {name: [torch.zeros_like(p) for p in parameters] for name in names}
    mass, divergence = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    asked = rows(data, chat.load_tokenizer(teacher), tokens)
    total = sum(len(r.completion_ids) for r in asked)
    done, began = 0, time.perf_counter()
    for number, batch in enumerate(batches(asked)):
        logprobs_TV = torch.cat(scorer.logits(batch)).log_softmax(-1).clone()
        gradients: dict[str, Callable[[Tensor], Tensor]] = {"dense": from_dense(logprobs_TV.exp())}
        for k in TOPK:
            gradients[f"top-{k}"], mass_T, divergence_T = from_topk(logprobs_TV, k)
            mass[f"top-{k}"] += float(mass_T.sum())
            divergence[f"top-{k}"] += float(divergence_T.sum())
        for n in DRAWS:
            gradients[f"{n} draws"] = from_draws(logprobs_TV, n, seed=number)
        logits_TV = answer_logits(student, batch)
        q_TV = logits_TV.detach().softmax(-1)
        for name in names:
            found = torch.autograd.grad(logits_TV, parameters, gradients[name](q_TV), retain_graph=name != names[-1])
            for held, new in zip(sums[name], found, strict=True):
                held += new
        done += len(q_TV)
        print(f"{done}/{total} tokens, {done / (time.perf_counter() - began):.0f}/s", file=sys.stderr)
    return [
        {
            "variant": name,
            "mass_kept": mass[name] / total if name in mass and name.startswith("top") else 1.0,
            "kl": divergence[name] / total,
            "gradient_cosine": cosine(sums[name], sums["dense"]),
        }
        for name in names[1:]
    ], total


def answer_logits(model: torch.nn.Module, batch: list[Asked]) -> Tensor:
    """float32[T, V] over all answers of a batch, right-padded; with a graph behind them."""
    ids = [r.prompt_ids + r.completion_ids for r in batch]
    longest = max(map(len, ids))
    ids_BL = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    hidden_BLd = model.model(ids_BL, use_cache=False).last_hidden_state
    rows_at = [h[len(r.prompt_ids) - 1 : len(i) - 1] for h, r, i in zip(hidden_BLd, batch, ids, strict=True)]
    logits_TV: Tensor = model.lm_head(torch.cat(rows_at))
    return logits_TV


def cosine(a: list[Tensor], b: list[Tensor]) -> float:
    """Cosine of two gradients over all parameters."""
    dot = sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))
    norms = [sum(float(x.double().square().sum()) for x in side) ** 0.5 for side in (a, b)]
    return dot / (norms[0] * norms[1])


def main() -> None:
    """The table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="models/smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, default=Path("data/gsm8k/train.jsonl"))
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 5, 10, 15, 20, 25, 29])
    parser.add_argument("--tokens", type=int, default=65_536)
    asked = parser.parse_args()
    for needed in (Path(asked.teacher), asked.data):
        if not needed.exists():
            sys.exit(f"{needed} is not there; name another with --teacher or --data")
    table, tokens = measure(asked.teacher, asked.layers, asked.data, asked.tokens)
    print(f"{'variant':<10} {'mass kept':>10} {'KL':>10} {'gradient cosine':>16}   over {tokens} tokens")
    for row in table:
        kl = f"{row['kl']:.2e}" if str(row["variant"]).startswith("top") else "-"
        print(f"{row['variant']:<10} {row['mass_kept']:>10.4f} {kl:>10} {row['gradient_cosine']:>16.4f}")
    by_name = {row["variant"]: row["gradient_cosine"] for row in table}
    print(
        json.dumps(
            {
                "gradient_cosine_topk50": by_name["top-50"],
                "gradient_cosine_sampled": by_name["12 draws"],
                "tokens": tokens,
                "table": table,
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


if __name__ == "__main__":
    main()
