"""What stored soft targets keep of the teacher's whole distribution p: the mass of the ids they name, and a divergence.

Restored, a store is a distribution r over the vocabulary. Top-k names K ids with their probabilities, and of the others
only the mass, so r spreads that evenly over those that p allows; draws are r as they fell. KL(r, p) is finite for both,
while KL(p, r) is not where an id was never drawn. It is one token's: the noise of its draws counts in full, though over
tokens it averages out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystill import targets


@dataclass(frozen=True)
class Sums:
    """Sums over so many tokens; the divergence is in nats, and None where nobody gives the whole distribution."""

    tokens: int = 0
    mass: float = 0.0
    divergence: float | None = 0.0


def sums(restored: targets.TopK | targets.Sampled, logprobs: Iterable[npt.NDArray[np.float32]]) -> Sums:
    """What one completion's targets keep, given the whole log-distributions [C, V] of its T tokens, chunk by chunk."""
    position_N, ids_N, r_N, tail_T = _named(restored)
    start, mass, divergence = 0, 0.0, 0.0
    for logprobs_CV in logprobs:
        stop = start + len(logprobs_CV)
        here = slice(*np.searchsorted(position_N, [start, stop]))
        row_N, r_here_N, tail_C = position_N[here] - start, r_N[here], tail_T[start:stop]
        named_N = logprobs_CV[row_N, ids_N[here]].astype(np.float64)
        allowed_CV = np.isfinite(logprobs_CV)
        others_C = allowed_CV.sum(-1) - np.bincount(row_N, minlength=len(tail_C))
        even_C = np.log(np.maximum(tail_C, 1e-300) / np.maximum(others_C, 1))
        all_C = logprobs_CV.sum(-1, dtype=np.float64, where=allowed_CV)
        mean_C = (all_C - np.bincount(row_N, named_N, len(tail_C))) / np.maximum(others_C, 1)
        mass += float(np.exp(named_N).sum())
        divergence += float((r_here_N * (np.log(r_here_N) - named_N)).sum() + (tail_C * (even_C - mean_C)).sum())
        start = stop
    return Sums(start, mass, divergence)


def sums_unseen(restored: targets.TopK) -> Sums:
    """As `sums`, from the targets alone: their tail says what mass they keep, and nothing says more."""
    return Sums(len(restored.tail_T), float(np.sum(1 - restored.tail_T, dtype=np.float64)), None)


def _named(restored: targets.TopK | targets.Sampled) -> tuple[targets.Ints, ...]:
    """Flat: position, id and probability of everything named, and each token's mass of all else."""
    if isinstance(restored, targets.TopK):
        tokens, k = restored.ids_TK.shape
        r_TK = np.exp(restored.logprobs_TK.astype(np.float64))
        return np.repeat(np.arange(tokens), k), restored.ids_TK.ravel(), r_TK.ravel(), restored.tail_T
    per_T = np.diff(restored.offsets_T1)
    position_N = np.repeat(np.arange(len(per_T)), per_T)
    draws = restored.counts_N[: restored.offsets_T1[1]].sum()
    return position_N, restored.ids_N, restored.counts_N / draws, np.zeros(len(per_T))
