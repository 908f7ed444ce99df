"""Mistakes in a model folder that train or answer without an error and spoil the result: stop token, padding, template,
vocabulary, context, output head.

Each check looks at one thing and says nothing when it is well. What it says ends with what to do.
"""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystill import chat, shapes
from raystill.chat import Tokenizer
from raystill.records import Message

ASKED = [Message("user", "question")]
ANSWER = "answer"


@dataclass(frozen=True)
class Seen:
    """A model folder as far as the checks need it."""

    folder: Path
    tokenizer: Tokenizer
    shape: shapes.Shape | None
    stops: frozenset[int]
    """Ids at which an engine stops: generation_config.json's eos_token_id, else config.json's, and the tokenizer's."""
    asked: str
    """A question as the template renders it when the model is to answer."""
    whole: str
    """The same with an answer."""


@dataclass(frozen=True)
class Remark:
    """What is wrong, or what `wrong` = False only wants to have said."""

    text: str
    wrong: bool


def look(folder: str) -> Seen:
    """Read a model folder. Raises ModelError without a tokenizer or with a template that refuses a question."""
    tokenizer = chat.load_tokenizer(folder)
    return Seen(
        folder=Path(folder),
        tokenizer=tokenizer,
        shape=shapes.of(folder),
        stops=frozenset(_stops(Path(folder)) | {tokenizer.eos_token_id}),
        asked=chat.text(tokenizer, ASKED, ask=True),
        whole=chat.text(tokenizer, [*ASKED, Message("assistant", ANSWER)], ask=False),
    )


def of_model(seen: Seen, learns: bool) -> Iterator[Remark]:
    """All remarks on a model that `learns`, or that only answers."""
    checks: list[Callable[[Seen, bool], Remark | None]] = [
        turn_end,
        prompt_end,
        begin,
        padding,
        vocabulary,
        output_head,
    ]
    for check in checks:
        if remark := check(seen, learns):
            yield remark


def turn_end(seen: Seen, learns: bool) -> Remark | None:
    """An assistant's turn must end with a token at which engines stop."""
    ending = seen.whole[seen.whole.rindex(ANSWER) + len(ANSWER) :].strip()
    stop, eos = chat.stop_id(seen.tokenizer), seen.tokenizer.eos_token
    name = seen.tokenizer.convert_ids_to_tokens(stop)
    if ending and name not in ending:
        return Remark(
            f"the template ends an answer with {ending!r}, which is no token of the tokenizer, so nothing can stop there; "
            f"write {{{{ eos_token }}}} ({eos}) there in the template, or add the token to the tokenizer and the model",
            wrong=True,
        )
    if not ending:
        return Remark(
            "the template ends an answer with nothing, so an earlier answer in a conversation has no end, while raystill "
            f"teaches {eos} after each; write {{{{ eos_token }}}} after the assistant's content in the template",
            wrong=False,
        )
    if stop not in seen.stops:
        fix = f'set "eos_token_id": {sorted({*seen.stops, stop})} in {seen.folder}/generation_config.json'
        what = f"the template ends an answer with {name} (id {stop}) and engines stop at {sorted(seen.stops)} alone"
        if learns:
            return Remark(
                f"{what}: the untrained student runs on; the trained one is exported right, else {fix}", False
            )
        return Remark(f"{what}: answers run on to their limit; {fix}", wrong=True)
    return None


def prompt_end(seen: Seen, learns: bool) -> Remark | None:
    """What the template writes before an answer belongs to the prompt."""
    before = seen.whole[: seen.whole.rindex(ANSWER)]
    header = before[len(seen.asked) :] if before.startswith(seen.asked) else ""
    if not header.strip():
        return None
    if seen.asked == chat.text(seen.tokenizer, ASKED, ask=False):
        return Remark(
            f"the template has no generation prompt: the model itself would have to write {header!r} before each answer; end "
            f"the template with {{% if add_generation_prompt %}}{header}{{% endif %}}",
            wrong=True,
        )
    return Remark(
        f"the template writes {header!r} between its generation prompt and an answer, which a student that retokenises text "
        "learns to write too; put it into the generation prompt, or take it out of the assistant's turn",
        wrong=False,
    )


def begin(seen: Seen, learns: bool) -> Remark | None:
    """The token that opens a text comes once."""
    bos, ids = seen.tokenizer.bos_token_id, chat.prompt_ids(seen.tokenizer, ASKED)
    if bos is None or ids[:2] != [bos, bos]:
        return None
    return Remark(f"the template opens with {seen.tokenizer.bos_token} twice; remove one of them from it", wrong=True)


def padding(seen: Seen, learns: bool) -> Remark | None:
    """A stop token that is also the padding is masked by trainers that mask by id."""
    pad = seen.tokenizer.pad_token_id
    if not learns or pad is None or pad != chat.stop_id(seen.tokenizer):
        return None
    return Remark(
        f"the padding token is the stop token ({seen.tokenizer.pad_token}): raystill masks by place and teaches it all the "
        'same, but a trainer that masks by id would teach never to stop; for those set another "pad_token" in '
        "tokenizer_config.json",
        wrong=False,
    )


def vocabulary(seen: Seen, learns: bool) -> Remark | None:
    """Every token has a row of the embedding."""
    tokens = max(seen.tokenizer.get_vocab().values(), default=-1) + 1
    if seen.shape is None or seen.shape.vocabulary == tokens:
        return None
    if seen.shape.vocabulary < tokens:
        return Remark(
            f"the tokenizer has {tokens} tokens and the model {seen.shape.vocabulary} rows, so some tokens have none; "
            "model.resize_token_embeddings(len(tokenizer)) in transformers, and save it",
            wrong=True,
        )
    return Remark(
        f"the vocabulary is padded: {seen.shape.vocabulary - tokens} of {seen.shape.vocabulary} rows belong to no token; "
        "targets there count as 'all others', nothing to do",
        wrong=False,
    )


def output_head(seen: Seen, learns: bool) -> Remark | None:
    """The config says of the output head what the weights hold."""
    names = _tensors(seen.folder)
    if seen.shape is None or not names or not any(n.endswith("embed_tokens.weight") for n in names):
        return None
    own = any(n.endswith("lm_head.weight") for n in names)
    if not own and not seen.shape.tied:
        return Remark(
            "config.json says that the output head has weights of its own, and the files have none, so it would start random; "
            'set "tie_word_embeddings": true in config.json, or save the model whole',
            wrong=True,
        )
    if own and seen.shape.tied:
        return Remark(
            "config.json ties the output head to the input embedding, and the files hold a head of its own, which is dropped; "
            'set "tie_word_embeddings": false in config.json if the two differ',
            wrong=False,
        )
    return None


def length(seen: Seen, max_length: int, chosen: bool) -> Remark | None:
    """The longest example fits the student's context; `chosen` says whether the recipe sets it."""
    if seen.shape is None or max_length <= seen.shape.context:
        return None
    return Remark(
        f"train.max_length is {max_length} and the student's context {seen.shape.context} tokens: longer examples would be "
        f"learnt at positions it does not know; train: {{max_length: {seen.shape.context}}}",
        wrong=chosen,
    )


def one_stop(teacher: Seen, student: Seen) -> Remark | None:
    """Of two models with one tokenizer: the student reads the teacher's ids, so both must end alike."""
    theirs, ours = (s.tokenizer.convert_ids_to_tokens(chat.stop_id(s.tokenizer)) for s in (teacher, student))
    if theirs == ours or chat.fingerprint(teacher.tokenizer) != chat.fingerprint(student.tokenizer):
        return None
    return Remark(
        f"the teacher ends an answer with {theirs} and the student with {ours} (as base and instruct versions do): the student "
        f"would learn to write both; give it the teacher's template: copy chat_template.jinja to {student.folder} and set "
        f'"eos_token": "{theirs}" in its tokenizer_config.json',
        wrong=True,
    )


def _stops(folder: Path) -> set[int]:
    for name in ("generation_config.json", "config.json"):
        try:
            eos: Any = json.loads((folder / name).read_text()).get("eos_token_id")
        except (OSError, ValueError):
            continue
        if eos is not None:
            return set(eos) if isinstance(eos, list) else {eos}
    return set()


def _tensors(folder: Path) -> set[str]:
    """Names of a folder's safetensors weights, from the index or from each file's header."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text())["weight_map"])
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            found |= set(json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0])))
    return found
