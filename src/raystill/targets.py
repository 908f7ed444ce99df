"""Soft targets as bytes: what the teacher thinks at each token of one completion, one value per completion.

T = completion tokens, K = kept alternatives, V = vocabulary, N = sampled unique ids over all tokens. Natural logarithms.

    header   version, kind, T, K (or draws), V
    body     one zstd frame whose blocks are byte planes, so that each plane has its own Huffman code
    crc32    over both

Two kinds. **top-k** holds the K most probable ids of each token with probabilities of the whole softmax (nothing is
renormalised over K) and the tail, the mass of the V - K others. **sampled** holds how often each id came in n draws.

What top-k loses: ids nothing. Log-probabilities are rounded to multiples of STEP; they fall with rank, so their
differences are small numbers, which Huffman codes shorten to about 3 bits. The tail is rounded in its log-odds, and
restored probabilities are scaled to exactly the mass it leaves.

    log-probability   |error| <= STEP + 0.001 = 0.051 nats: half a step of its own and at most half from scaling
    tail and kept     relative error <= 0.0008 each; a tail below e**-40 becomes e**-40, a tail of 0 stays 0
    sum               restored probabilities and tail sum to one within 3e-6
    divergence        KL(exact, restored) over K ids and tail: STEP**2 / 24 = 1e-4 nats for errors spread evenly,
                      and by Hoeffding's lemma never above STEP**2 / 8 + 1e-6 = 3.2e-4
    order             restored log-probabilities fall with rank as given; equal ones stay equal
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from raystill.errors import Corrupted

STEP = 0.05
"""Spacing of stored log-probabilities in nats. Half of it costs 5 bytes per token more at K = 50, and twice of it saves 4."""
MASS_SLACK = 1e-4
"""How far kept mass and tail may miss one together. Float32 log-probabilities miss it by 2e-7, bfloat16 ones by 4e-3."""

_VERSION = 1
_TOPK, _SAMPLED = 1, 2
_HEADER = struct.Struct("<BBIII")
_CRC = struct.Struct("<I")
_LOGPROB_FLOOR = -1e4
_ODDS_LIMIT = 40.0
_ODDS_CODES = 65535
_CONTINUES = 255

# Level 1: of 3, 9 and 16 only 16 is smaller, by 0.4%, and it takes 400 times as long. The magic number says nothing new.
_ZSTD: Any = {"format": zstandard.FORMAT_ZSTD1_MAGICLESS}
_COMPRESSION = zstandard.ZstdCompressionParameters.from_level(1, write_content_size=0, **_ZSTD)

Ints = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


class TopK(NamedTuple):
    """The K most probable ids of each token, in order of falling probability, and the mass of all others."""

    ids_TK: npt.NDArray[np.int32]
    logprobs_TK: npt.NDArray[np.float32]
    tail_T: npt.NDArray[np.float32]


class Sampled(NamedTuple):
    """Unique drawn ids with counts; token t owns ids offsets[t] to offsets[t + 1]. Each token's counts sum to n."""

    ids_N: npt.NDArray[np.int32]
    counts_N: npt.NDArray[np.int32]
    offsets_T1: npt.NDArray[np.int64]


def pack_topk(ids_TK: npt.ArrayLike, logprobs_TK: npt.ArrayLike, tail_T: npt.ArrayLike, vocabulary: int) -> bytes:
    """Top-k targets of one completion as bytes. Raises ValueError on what cannot be the top of a distribution.

    Rows must fall: ids in order of falling probability, without the actual token appended out of order.
    """
    ids = np.asarray(ids_TK)
    logprobs = np.asarray(logprobs_TK, dtype=np.float64)
    tail = np.asarray(tail_T, dtype=np.float64)
    if ids.ndim != 2 or ids.shape != logprobs.shape or tail.shape != ids.shape[:1] or ids.shape[1] == 0:
        raise ValueError(f"shapes differ: ids {ids.shape}, log-probabilities {logprobs.shape}, tail {tail.shape}")
    kept = _check_topk(ids, logprobs, tail, vocabulary)
    # Rank by rank, not token by token: differences shrink with rank, and 3% of their bytes go.
    levels_KT = np.rint(np.ascontiguousarray(logprobs.T) / -STEP).astype(np.int64).clip(0)
    codes = _tail_codes(tail.clip(0), kept)
    streams = [
        *_planes(ids, vocabulary),
        codes.view(np.uint8),
        _to_bytes(np.diff(levels_KT, axis=0, prepend=0).ravel()),
    ]
    return _seal(_TOPK, len(ids), ids.shape[1], vocabulary, streams)


def unpack_topk(data: bytes) -> TopK:
    """What pack_topk was given, within the errors stated above. Raises Corrupted on damaged bytes."""
    tokens, k, vocabulary, body = _open(data, _TOPK)
    ids, rest = _from_planes(body, tokens * k, vocabulary)
    codes = rest[: 2 * tokens].view("<u2")
    levels_KT = np.cumsum(_from_bytes(rest[2 * tokens :]).reshape(k, tokens), axis=0)
    levels_TK = np.ascontiguousarray(levels_KT.T)
    tail, kept = _tail(codes)
    grid = -STEP * np.arange(int(levels_TK.max(initial=0)) + 1)
    scale_T = np.log(kept) - np.log(np.exp(grid)[levels_TK].sum(axis=1))
    logprobs = grid.astype(np.float32)[levels_TK] + scale_T.astype(np.float32)[:, None]
    return TopK(ids.reshape(tokens, k), np.minimum(logprobs, 0), tail.astype(np.float32))


def pack_sampled(ids_N: npt.ArrayLike, counts_N: npt.ArrayLike, offsets_T1: npt.ArrayLike, vocabulary: int) -> bytes:
    """Sampled targets of one completion as bytes, exactly. Every token must have the same number of draws, n.

    Counts take n - 1 bits per token: with draws of one id side by side, bit i says whether draw i + 1 begins a new id.
    """
    ids, counts, offsets = np.asarray(ids_N), np.asarray(counts_N), np.asarray(offsets_T1)
    tokens = len(offsets) - 1
    draws = int(counts[: offsets[1]].sum()) if tokens > 0 else 0
    _check_sampled(ids, counts, offsets, draws, vocabulary)
    starts = np.cumsum(counts) - counts
    begins = np.zeros(tokens * draws, np.bool_)
    begins[starts] = True
    bits = np.packbits(begins.reshape(tokens, draws)[:, 1:])
    return _seal(_SAMPLED, tokens, draws, vocabulary, [bits, *_planes(ids, vocabulary)])


def unpack_sampled(data: bytes) -> Sampled:
    """What pack_sampled was given. Raises Corrupted on damaged bytes."""
    tokens, draws, vocabulary, body = _open(data, _SAMPLED)
    inner = tokens * max(draws - 1, 0)
    bits, rest = np.split(body, [(inner + 7) // 8])
    begins = np.ones((tokens, draws), np.bool_)
    begins[:, 1:] = np.unpackbits(bits, count=inner).reshape(tokens, max(draws - 1, 0))
    counts = np.diff(np.flatnonzero(begins), append=tokens * draws).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(begins.sum(axis=1))]).astype(np.int64)
    return Sampled(_from_planes(rest, len(counts), vocabulary)[0], counts, offsets)


def _check_topk(ids: Ints, logprobs: npt.NDArray[np.float64], tail: npt.NDArray[np.float64], vocabulary: int) -> Any:
    """The kept mass of each token, once everything is as a softmax would have it."""
    _check_ids(ids, vocabulary)
    if not (np.isfinite(logprobs).all() and np.isfinite(tail).all()):
        raise ValueError("log-probabilities or tail hold NaN or infinity: the teacher's forward pass went wrong")
    if logprobs.size and (logprobs.max() > MASS_SLACK or logprobs.min() < _LOGPROB_FLOOR):
        raise ValueError(f"log-probabilities must lie between {_LOGPROB_FLOOR:g} and 0; lower ones are masked tokens")
    if (logprobs[:, 1:] > logprobs[:, :-1]).any():
        raise ValueError("log-probabilities must fall with rank; sort each token's row first")
    kept = np.exp(logprobs).sum(axis=1)
    if (tail < -MASS_SLACK).any() or (np.abs(kept + tail - 1) > MASS_SLACK).any():
        raise ValueError("kept probabilities and tail must sum to one: do not round, re-temper or renormalise them")
    if (kept * vocabulary < 0.9 * ids.shape[1]).any():  # each of the K kept is at least as probable as the average id
        raise ValueError("the kept ids hold less mass than as many average ids: they are not the most probable ones")
    ranked = np.sort(ids, axis=1)
    if (ranked[:, 1:] == ranked[:, :-1]).any():
        raise ValueError("an id stands twice in one token's row; drop the actual token where it is among the top")
    return kept


def _check_sampled(ids: Ints, counts: Ints, offsets: Ints, draws: int, vocabulary: int) -> None:
    _check_ids(ids, vocabulary)
    if ids.shape != counts.shape or offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 1).any():
        raise ValueError("offsets must begin with 0, rise with every token and end with the number of ids")
    if len(ids) and (counts.min() < 1 or (np.add.reduceat(counts, offsets[:-1]) != draws).any()):
        raise ValueError(f"counts must be positive and sum to the same number of draws at every token, here {draws}")


def _check_ids(ids: Ints, vocabulary: int) -> None:
    if not np.issubdtype(ids.dtype, np.integer) or (ids.size and (ids.min() < 0 or ids.max() >= vocabulary)):
        raise ValueError(f"token ids must be integers from 0 to {vocabulary - 1}")


def _tail_codes(tail: npt.NDArray[np.float64], kept: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Log-odds of the tail in 16 bits, so that neither it nor the kept mass loses relative precision; 0 is no tail."""
    odds = np.log(np.maximum(tail, 1e-300)) - np.log(kept)
    scaled = (np.clip(odds, -_ODDS_LIMIT, _ODDS_LIMIT) / _ODDS_LIMIT + 1) / 2
    return np.where(tail > 0, 1 + np.rint(scaled * (_ODDS_CODES - 1)), 0).astype("<u2")


def _tail(codes: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    odds = ((codes - 1.0) / (_ODDS_CODES - 1) * 2 - 1) * _ODDS_LIMIT
    none = codes == 0
    return np.where(none, 0, 1 / (1 + np.exp(-odds))), np.where(none, 1, 1 / (1 + np.exp(odds)))


def _planes(ids: Ints, vocabulary: int) -> list[Bytes]:
    """Low bytes, then higher ones. Tokenizers number frequent tokens low, so high bytes take 5 bits, not 8."""
    return [(ids >> shift).astype(np.uint8).ravel() for shift in _shifts(vocabulary)]


def _from_planes(body: Bytes, ids: int, vocabulary: int) -> tuple[npt.NDArray[np.int32], Bytes]:
    """So many ids, and what follows them."""
    out = np.zeros(ids, np.int32)
    for i, shift in enumerate(_shifts(vocabulary)):
        out |= body[i * ids : (i + 1) * ids].astype(np.int32) << shift
    return out, body[len(_shifts(vocabulary)) * ids :]


def _shifts(vocabulary: int) -> range:
    return range(0, max(1, (vocabulary - 1).bit_length()), 8)


def _to_bytes(values: npt.NDArray[np.int64]) -> Bytes:
    """Numbers from 0 as bytes: 255 says that the number goes on in the next byte."""
    ends = np.cumsum(values // _CONTINUES + 1) - 1
    out = np.full(ends[-1] + 1 if len(ends) else 0, _CONTINUES, np.uint8)
    out[ends] = values % _CONTINUES
    return out


def _from_bytes(stream: Bytes) -> npt.NDArray[np.int64]:
    return np.diff(np.cumsum(stream, dtype=np.int64)[stream != _CONTINUES], prepend=0)


def _seal(kind: int, tokens: int, width: int, vocabulary: int, streams: list[Bytes]) -> bytes:
    frame = zstandard.ZstdCompressor(compression_params=_COMPRESSION).compressobj()
    parts = [_HEADER.pack(_VERSION, kind, tokens, width, vocabulary)]
    for stream in streams:
        parts += [frame.compress(stream.tobytes()), frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    sealed = b"".join([*parts, frame.flush()])
    return sealed + _CRC.pack(zlib.crc32(sealed))


def _open(data: bytes, kind: int) -> tuple[int, int, int, Bytes]:
    """T, K or draws, V and the unpacked body."""
    sealed, crc = data[: -_CRC.size], data[-_CRC.size :]
    if len(sealed) < _HEADER.size or _CRC.pack(zlib.crc32(sealed)) != crc:
        raise Corrupted("soft targets do not match their checksum; move their folder away and run again")
    version, found, tokens, width, vocabulary = _HEADER.unpack_from(sealed)
    if version != _VERSION:
        raise Corrupted(f"soft targets are of version {version}, and this raystill reads {_VERSION}; score them again")
    if found != kind:
        raise ValueError("sampled targets were read as top-k, or the reverse; the manifest says which they are")
    body = zstandard.ZstdDecompressor(**_ZSTD).decompressobj().decompress(sealed[_HEADER.size :])
    return tokens, width, vocabulary, np.frombuffer(body, np.uint8)
