"""The demo's data: a support desk that this project writes itself, and a tokenizer and model shape that fit it.

    python jobs/demo_data.py [FOLDER]      writes data/demo/ from one seed, without a download; twice changes nothing

`train.jsonl` and `test.jsonl` hold customers' messages (`prompt`) with the house's answer (`reference`) and what makes
any answer right (`must_include`, `fact_patterns`, `style`: see the `conversation` task). No order number, and no
combination of topic, product and date, of the test rows occurs in the train rows. `model/` holds a byte-level BPE
tokenizer, trained on the train rows, and the config.json of a small Llama; weights are made by whoever uses it.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20
TRAIN_ROWS = 8000
TEST_ROWS = 300
VOCABULARY = 1024

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
PRODUCTS = (
    "backpack", "blender", "bookshelf", "coffee grinder", "desk lamp", "garden hose", "hair dryer", "heater",
    "kettle", "keyboard", "mirror", "office chair", "picture frame", "rain jacket", "rug", "sewing machine",
    "speaker", "suitcase", "tent", "toaster", "vacuum cleaner", "wall clock", "water bottle", "yoga mat",
)  # fmt: skip
NAMES = ("Ana", "Ben", "Chen", "Dana", "Emil", "Farah", "Goran", "Hana", "Ivo", "June", "Kofi", "Lena", "Mira", "Noor")


@dataclass(frozen=True)
class Topic:
    """One reason to write: what the desk answers, and how customers put it (`it` is the product, named before)."""

    answer: str
    complaints: tuple[str, ...]


TOPICS = (
    Topic(
        "we have asked the carrier to find it",
        (
            "It has not arrived yet.",
            "When will it get here?",
            "I am still waiting for the parcel.",
            "The tracking page has not moved for a week.",
            "Where is my parcel?",
            "It should have been delivered days ago.",
        ),
    ),
    Topic(
        "a replacement leaves tomorrow",
        (
            "It arrived broken.",
            "It was damaged when I opened the box.",
            "There is a big crack in it.",
            "It came out of the parcel in pieces.",
            "The courier must have dropped it, it is badly dented.",
            "One side of it is smashed.",
        ),
    ),
    Topic(
        "your return label is in your inbox",
        (
            "I would like to send it back.",
            "I do not like it, how do I return it?",
            "It does not suit me, can I give it back?",
            "How can I return it?",
            "It is not what I hoped for and I want to send it back.",
            "Please tell me how returns work.",
        ),
    ),
    Topic(
        "your refund arrives within five days",
        (
            "I sent it back but have not seen my money.",
            "Where is my refund?",
            "You have had it back for weeks, when do I get the refund?",
            "I am still waiting to be paid back.",
            "The refund has not reached my account.",
            "You promised me a refund for it.",
        ),
    ),
    Topic(
        "the right item is on its way",
        (
            "You sent me something else.",
            "The box had the wrong thing in it.",
            "I got the wrong colour.",
            "This is not the model I chose.",
            "I opened the parcel and found a different item.",
            "What came is the wrong size.",
        ),
    ),
    Topic(
        "it is cancelled and you pay nothing",
        (
            "Please cancel it.",
            "I have changed my mind, can you stop the order?",
            "I do not need it any more, please do not ship it.",
            "Can I still cancel?",
            "I ordered it by mistake and want to cancel.",
            "Kindly stop this order before it ships.",
        ),
    ),
    Topic(
        "it will go to your new address",
        (
            "I have moved, can you send it to my new home?",
            "I gave the wrong street, can you correct it?",
            "Please deliver it to a different address.",
            "I need to change the delivery address.",
            "Could it go to my office instead?",
            "My old address is on the order, please update it.",
        ),
    ),
    Topic(
        "a copy of the invoice is in your inbox",
        (
            "I need an invoice for it.",
            "Can you send me the receipt again?",
            "My company asks for the bill.",
            "I cannot find the invoice.",
            "Please email me a receipt for my taxes.",
            "There was no bill in the parcel.",
        ),
    ),
    Topic(
        "we are posting the missing part today",
        (
            "A part is missing.",
            "The screws were not in the box.",
            "It came without the manual and the cable.",
            "I cannot put it together, one piece was not included.",
            "Some of the parts are missing from the parcel.",
            "The lid that belongs to it was left out.",
        ),
    ),
    Topic(
        "our workshop will repair it under warranty",
        (
            "It stopped working.",
            "After a few weeks it is faulty, is it under warranty?",
            "It worked for a month and then died.",
            "It makes a strange noise and no longer works.",
            "Can you repair it? It has a defect.",
            "It fell apart after normal use.",
        ),
    ),
)

OPENERS = ("", "", "", "Hello.", "Hi,", "Hi there,", "Good morning.", "Dear team,", "Hello support,")
CLOSERS = ("", "", "", "Thanks.", "Thank you!", "Please help.", "Best, {name}", "Thanks, {name}", "Regards, {name}")
FACTS = (
    "I bought {a_product} on {date}, order {order}.",
    "I ordered {a_product} on {date} (order {order}).",
    "This is about my {product}, order {order} of {date}.",
    "My order {order} from {date} was {a_product}.",
    "On {date} I ordered {a_product}, number {order}.",
    "Order {order}, placed on {date}, one {product}.",
    "I am writing about order {order}: {a_product}, bought on {date}.",
    "Order number {order}, {product}, {date}.",
    "You have my order {order} for {a_product} since {date}.",
    "It is about the {product} that I bought on {date}, order no. {order}.",
)

HOUSE = "Order {order}, your {product} of {date}: {answer}."
STYLE = r"Order #[A-M]\d\d[N-Z], your [a-z ]+ of \d{1,2} [A-Z][a-z]+: [a-z ]+\."
FACT_PATTERNS = [r"#\w+", r"(?<=, your )[a-z ]+(?= of )", r"\d{1,2} [A-Z][a-z]+", r"(?<=: )[a-z ]+"]

USER, ASSISTANT, SYSTEM, END, PAD = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _spoken_date(rng: random.Random, day: int, month: str) -> str:
    suffix = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return rng.choice((f"{day} {month}", f"{day} {month}", f"{month} {day}", f"the {day}{suffix} of {month}"))


def _order_number(rng: random.Random) -> str:
    """Such as #C47T: letters are of either half of the alphabet, and numbers no days, so each piece is known by itself."""
    return f"#{rng.choice('ABCDEFGHJKLM')}{rng.randrange(30, 100)}{rng.choice('NPRSTUVWXYZ')}"


def _message(rng: random.Random, topic: Topic, order: str, product: str, day: int, month: str) -> str:
    """One customer's message: opener, facts and complaint in either order, closer; some customers skip capitals."""
    facts = rng.choice(FACTS).format(
        order=order,
        product=product,
        a_product=f"{'an' if product[0] in 'aeiou' else 'a'} {product}",
        date=_spoken_date(rng, day, month),
    )
    body = [facts, rng.choice(topic.complaints)]
    if rng.random() < 0.3:
        body.reverse()
    closer = rng.choice(CLOSERS).format(name=rng.choice(NAMES))
    text = " ".join(part for part in (rng.choice(OPENERS), *body, closer) if part)
    return text.lower().replace(order.lower(), order) if rng.random() < 0.1 else text


def _rows(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows without end; no two share an order number or a combination of topic, product and date."""
    seen: set[object] = set()
    while True:
        topic, product = rng.choice(TOPICS), rng.choice(PRODUCTS)
        day, month, order = rng.randint(1, 28), rng.choice(MONTHS), _order_number(rng)
        combination = (topic, product, day, month)
        if order in seen or combination in seen:
            continue
        seen |= {order, combination}
        facts = {"order": order, "product": product, "date": f"{day} {month}", "answer": topic.answer}
        yield {
            "id": f"ticket-{order[1:]}",
            "prompt": _message(rng, topic, order, product, day, month),
            "reference": HOUSE.format(**facts),
            "must_include": list(facts.values()),
            "fact_patterns": FACT_PATTERNS,
            "style": STYLE,
        }


def rows(seed: int = SEED) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train and test rows of one seed; a longer train set begins with the shorter one."""
    stream = _rows(random.Random(seed))
    test = [next(stream) for _ in range(TEST_ROWS)]
    return [next(stream) for _ in range(TRAIN_ROWS)], test


def _write_model(folder: Path, texts: list[str]) -> None:
    """A tokenizer for `texts` and the shape of a small Llama. Digits come in pairs: an order is three tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d{1,2}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [PAD, END, SYSTEM, USER, ASSISTANT]
    pairs = [f"{n:02d}" for n in range(100)] * 200
    tokenizer.train_from_iterator(
        texts + pairs,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=specials[2:],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fast),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's CPU attention takes
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        initializer_range=0.05,  # copying an order number is learnt in half the steps that 0.02 needs
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        dtype="float32",
    ).save_pretrained(folder)


def write(folder: Path) -> bool:
    """Write the data and the model folder; False when this very version is there already."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp = folder / "written-by.txt"
    if stamp.exists() and stamp.read_text() == version:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    train, test = rows()
    for name, part in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    _write_model(folder / "model", [row[key] for row in train for key in ("prompt", "reference")])
    stamp.write_text(version)
    return True


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "data/demo")
    print(f"{target}: {'written' if write(target) else 'already there'}")
