"""The recipe: what to distil, nouns first. Frozen, typed, complete; no torch, no ray.

Five lines are enough; every other key is a deviation from a default whose reason stands beside it. A field tagged
IDENTITY-free (`identity=False`) changes where or how something runs or is shown, never what comes out of it.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def setting(default: Any, what: str, why: str, *, identity: bool = True, **limits: Any) -> Any:
    """A recipe field with its meaning and the reason for its default."""
    return Field(default, description=what, json_schema_extra={"why": why, "identity": identity}, **limits)


def required(what: str, **limits: Any) -> Any:
    """A recipe field that has no default."""
    return Field(description=what, **limits)


class Block(BaseModel):
    """Base of every block: frozen, and an unknown key is refused with the nearest known one."""

    # Inputs are hidden: a key typed into the wrong place must not come back in an error's text.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = [f.alias or name for name, f in cls.model_fields.items()]
            for key in values:
                if key not in known:
                    near = difflib.get_close_matches(str(key), known, 1, 0.5)
                    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
                    raise ValueError(f"unknown key '{key}'; {hint}")
        return values

    def identity(self) -> dict[str, Any]:
        """What of this block decides the outcome: its values less the identity-free ones."""
        out: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("identity") is False:
                continue
            value = getattr(self, name)
            out[name] = value.identity() if isinstance(value, Block) else _plain(value)
        return out


def _plain(value: Any) -> Any:
    if isinstance(value, Block):
        return value.identity()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _slug(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' is not a name: it becomes folder and Kubernetes names, so use 1-40 of a-z, 0-9 and '-'"
        )
    return name


Name = Annotated[str, AfterValidator(_slug)]
Paths = str | list[str]


class Parse(Block):
    """How an answer of a task of your own is read; exactly one of these."""

    regex: str | None = setting(
        None, "its first group is what an answer says, else its whole match, the last one in the text", "another form"
    )
    json_path: str | None = setting(None, "where in the answer's JSON it stands, e.g. result.label", "another form")
    choices: list[str] | None = setting(None, "the one of these that an answer names", "another form", min_length=2)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(form is not None for form in (self.regex, self.json_path, self.choices)) != 1:
            raise ValueError("'parse' takes exactly one of regex, json_path and choices, e.g. choices: [yes, no]")
        return self


ONLY_FOR = {
    "chain_of_thought": ("nli", "qa", "math", "moderation", "own"),
    "chain_of_density": ("summarization",),
    "max_len_summary": ("summarization",),
    "language": ("translation",),
    "labels": ("nli", "moderation"),
    "false_positive_rate": ("moderation",),
    "parse": ("own",),
    "metrics": ("own",),
}
"""Keys of 'task' that mean something to some kinds alone."""


class Task(Block):
    """What a right answer is. A kind alone may be written as text: `task: math`."""

    kind: str = setting(
        "own",
        "classification, conversation, nli, qa, math, summarization, translation, moderation, own or module:attr",
        "a task of your own, read by 'parse'",
    )
    system: str | None = setting(
        None, "what teacher and student are told where they have no system of their own", "the kind's own words",
        identity=False,
    )  # fmt: skip
    chain_of_thought: bool = setting(
        False, "whether the teacher reasons before it answers; the student learns that too with curate.reasoning",
        "an answer alone is shorter",
    )  # fmt: skip
    chain_of_density: bool = setting(
        False, "whether the teacher writes ever denser summaries, of which the last counts (arXiv 2309.04269)",
        "one summary is cheaper",
    )  # fmt: skip
    max_len_summary: int = setting(80, "longest summary in words", "a short paragraph", ge=1)
    language: str | None = setting(
        None, "what to translate into, e.g. German", "the prompts say it", identity=False, min_length=1
    )
    labels: list[str] | None = setting(
        None, "what an answer may be; for moderation the first one passes and all others are flagged",
        "nli: entailment, neutral, contradiction; moderation: safe, unsafe", min_length=2,
    )  # fmt: skip
    false_positive_rate: float = setting(
        0.05, "share of passing rows that may be flagged where recall is measured", "one in twenty", identity=False,
        ge=0, lt=1,
    )  # fmt: skip
    parse: Parse | None = setting(None, "how an answer is read", "its whole text, whitespace aside")
    metrics: list[str] = setting(
        ["accuracy"], "accuracy, exact_match, token_f1, macro_f1, bleu, chrf, rouge_1, rouge_2, rouge_l or module:attr; "
        "accuracy decides, or else the first one", "equality with the reference", identity=False, min_length=1,
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        for name in sorted(self.model_fields_set & set(ONLY_FOR)):
            if self.kind not in ONLY_FOR[name]:
                raise ValueError(
                    f"'{name}' says nothing to task {self.kind}, only to {', '.join(ONLY_FOR[name])}; remove it"
                )
        if self.kind == "own" and not self.model_fields_set & {"parse", "metrics"}:
            raise ValueError("a task needs a 'kind', or as your own a 'parse'; e.g. parse: {choices: [low, high]}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """As text, too: editors check recipes by this."""
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


class Splits(Block):
    """How rows are dealt to train, validation and test when no file of their own is given."""

    validation: float = setting(0.05, "share of rows for validation", "enough to see overfitting", ge=0, lt=1)
    test: float = setting(0.1, "share of rows held out for the report", "never seen by teacher or student", ge=0, lt=1)
    by: str | None = setting(None, "column whose equal values stay in one split", "rows are independent unless you say")


class Data(Block):
    """Where prompts come from. Paths may be globs, .gz, .zst, s3:// or a hub id (owner/name or owner/name:config).

    A file's identity is its content, so its path is none.
    """

    train: Paths = Field(description="prompts to learn from", json_schema_extra={"identity": False})
    validation: Paths | None = setting(None, "file of its own", "split off train by hash", identity=False)
    test: Paths | None = setting(None, "file of its own", "split off train by hash", identity=False)
    split: Splits = setting(Splits(), "how rows are dealt", "by hash of the row: stable when rows are added")
    prompt: str | None = setting(
        None, "column, or template such as '{{ subject }}: {{ body }}'", "'messages', else 'prompt', 'text', 'question'"
    )
    reference: str | None = setting(
        None, "column or template of the right answer", "none: then the report says agreement, not accuracy"
    )
    id: str | None = setting(None, "column that names a row", "hash of the row's content")
    turns: Literal["last", "each"] = setting("last", "which assistant turns become prompts", "one prompt per row")
    limit: int | None = setting(None, "keep so many train rows, chosen by hash", "all of them", ge=1)
    max_row_bytes: int = setting(16 << 20, "longest row in bytes", "longer is rejected: it is not a prompt", ge=1)


class Structured(Block):
    """What form an answer must have; exactly one of these. The engine then draws only tokens that fit."""

    json_schema: dict[str, Any] | None = setting(None, "JSON Schema of the answer", "another form is given")
    regex: str | None = setting(None, "regular expression of the whole answer", "another form is given")
    choice: list[str] | None = setting(None, "the only answers", "another form is given", min_length=2)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(form is not None for form in (self.json_schema, self.regex, self.choice)) != 1:
            raise ValueError("'structured' takes exactly one of json_schema, regex and choice, e.g. choice: [yes, no]")
        return self


class Sampling(Block):
    """How answers are drawn."""

    temperature: float = setting(0.7, "softness of the draw", "usual for teacher outputs; 0 is greedy", ge=0, le=5)
    top_p: float = setting(1.0, "nucleus mass", "no truncation", gt=0, le=1)
    max_tokens: int = setting(512, "longest answer in tokens", "cuts run-away answers; cut ones are dropped", ge=1)
    n: int = setting(1, "answers per prompt", "one answer is the cheapest", ge=1, le=64)
    stop: list[str] = setting([], "texts that end an answer", "the model's own stop token")
    seed: int = setting(0, "seed of the draw", "repeatable as far as the engine is", ge=0)
    structured: Structured | None = setting(None, "form that an answer must have", "free text")

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.n > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.n} samples at temperature 0 are all the same; set a temperature such as 0.7, or n: 1"
            )
        return self


class Turn(Block):
    """One few-shot exchange shown to a model before the prompt."""

    user: str = required("what the user says")
    assistant: str = required("what the model should answer")


class Scripted(Block):
    """The deterministic fake teacher: for faults and scale, never for claims."""

    delay_s: float = setting(0.0, "seconds per answer", "as fast as it goes", ge=0)
    die_after: int | None = setting(None, "end the process at its so-manieth row", "never", ge=1)


class Price(Block):
    """What an endpoint asks, in the currency of 'prices'."""

    input: float = Field(description="a million prompt tokens", json_schema_extra={"identity": False}, ge=0)
    output: float = Field(description="a million answer tokens", json_schema_extra={"identity": False}, ge=0)


VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
KEY = re.compile(r"\s*(sk-|Bearer |(gsk_|hf_|pk-|xai-|nvapi-|AIza)[\w-]{16})", re.IGNORECASE)
"""How vendors' keys begin; hf_token.txt is a good name for a file."""
NEVER_EXTRA = ("model", "messages", "stream", "n")
ELSEWHERE = {
    "max_tokens": "sampling.max_tokens",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "stop": "sampling.stop",
    "seed": "sampling.seed",
}
"""Body fields that stand elsewhere in the recipe; null leaves them out for a vendor that does not know them."""


class Endpoint(Block):
    """A model behind an OpenAI-compatible URL: a vendor's, a gateway's or your own."""

    url: str = required("its base, e.g. https://api.openai.com/v1; without a path /v1 is added")
    model: str = required("the model's name there", min_length=1)
    key_env: str | None = setting(None, "environment variable that holds the key", "no key is sent", identity=False)
    key_file: str | None = setting(None, "file that holds the key", "no key is sent", identity=False)
    requests_per_minute: float | None = setting(None, "most requests per minute", "no limit", identity=False, gt=0)
    tokens_per_minute: float | None = setting(
        None, "most tokens per minute, of prompts and answers", "no limit", identity=False, gt=0
    )
    concurrency: int = setting(
        64, "most requests in flight; fewer while answers slow down or fail", "one client's fair share",
        identity=False, ge=1,
    )  # fmt: skip
    timeout_s: float = setting(300.0, "longest time for one answer", "long answers take minutes", identity=False, gt=0)
    price: Price | None = setting(None, "what it asks", "unknown: then no cost is shown", identity=False)
    extra: dict[str, Any] = setting(
        {}, "further body fields, e.g. {reasoning_effort: low}; null leaves one of ours out", "none"
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        """Checked as a whole, so that no message can show a value: it might be a key."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("'url' needs a scheme and a host; e.g. url: https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("'url' may hold no user, password or query, since it is shown; name the key by 'key_env'")
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError("'url' is the base, without /chat/completions; e.g. url: https://api.openai.com/v1")
        if self.key_env and self.key_file:
            raise ValueError("give one of 'key_env' and 'key_file'")
        if self.key_env is not None and not VARIABLE.fullmatch(self.key_env):
            raise ValueError(
                "'key_env' is the name of an environment variable in capitals, never the key: recipes are shared; "
                "type: export ENDPOINT_KEY=…, and key_env: ENDPOINT_KEY"
            )
        if self.key_file is not None and KEY.match(self.key_file):
            raise ValueError(
                "'key_file' is the path of a file, never the key: recipes are shared; e.g. key_file: ~/.key"
            )
        return self

    @model_validator(mode="after")
    def _extra_is_extra(self) -> Self:
        for name, value in self.extra.items():
            if name in NEVER_EXTRA:
                raise ValueError(f"'extra' may not set '{name}': raystill sets it itself; remove it")
            if name in ELSEWHERE and value is not None:
                raise ValueError(f"'extra' may not set '{name}': write it as teacher.{ELSEWHERE[name]}")
            if isinstance(value, str) and KEY.match(value):
                raise ValueError("'extra' holds what looks like a key; recipes are shared: name the key by 'key_env'")
        return self


PLACEMENT_KEYS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
)
"""Engine arguments that change where and how fast an engine runs, not what it is asked to say."""


class Teacher(Block):
    """Who answers the prompts: a model, or the student of another recipe. The model's identity is its content."""

    kind: str = setting(
        "vllm",
        "vllm, transformers (slow, anywhere), endpoint (a URL), reference (the data's own answers), scripted, or module:attr",
        "the fast engine",
    )
    model: str | None = setting(
        None, "folder, s3:// folder or hub id", "not needed for reference, scripted or recipe", identity=False
    )
    recipe: str | None = setting(
        None, "another recipe, whose student is the teacher", "a model is given", identity=False
    )
    system: str | None = setting(
        None, "system prompt that only the teacher sees", "the task's own, if any, else the data's; null: the data's"
    )
    examples: list[Turn] = setting([], "few-shot exchanges that only the teacher sees", "none")
    sampling: Sampling = setting(Sampling(), "how answers are drawn", "one answer at 0.7")
    chat_template_kwargs: dict[str, Any] = setting(
        {}, "arguments of its chat template, e.g. {enable_thinking: false}", "the template's own defaults"
    )
    reasoning_parser: str | None = setting(
        None, "vLLM's parser that tells reasoning from answer, e.g. deepseek_r1", "the answer is kept whole"
    )
    tool_parser: str | None = setting(
        None, "vLLM's parser that reads tool calls, e.g. hermes", "the data names no tools, or calls stay text"
    )
    engine: dict[str, Any] = setting({}, "any vLLM engine argument", "vLLM's defaults, fitted to the machine")
    stall_s: float = setting(
        1800.0,
        "longest time without any answer before an engine counts as hung",
        "longer than the longest answer",
        identity=False,
        gt=0,
    )
    endpoint: Endpoint | None = setting(None, "the URL of kind 'endpoint'", "another kind")
    scripted: Scripted = setting(Scripted(), "the fake's behaviour", "answers at once", identity=True)

    def identity(self) -> dict[str, Any]:
        """Its identity, less the engine's placement keys."""
        engine = {k: v for k, v in self.engine.items() if k not in PLACEMENT_KEYS}
        return super().identity() | {"engine": engine}

    def view(self) -> dict[str, Any]:
        """What decides how it sees a prompt."""
        return {k: v for k, v in self.identity().items() if k in ("system", "examples", "chat_template_kwargs")}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.kind in ("vllm", "transformers") and (self.model is None) == (self.recipe is None):
            raise ValueError("a teacher needs exactly one of 'model' and 'recipe'; e.g. model: Qwen/Qwen3-8B")
        if self.kind == "endpoint" and self.endpoint is None:
            raise ValueError(
                "kind: endpoint needs an 'endpoint'; "
                "e.g. endpoint: {url: https://api.openai.com/v1, model: gpt-4.1, key_env: OPENAI_API_KEY}"
            )
        if self.kind == "endpoint" and (self.model or self.recipe):
            raise ValueError(
                "kind: endpoint takes the name of its model from 'endpoint.model'; remove 'model' and 'recipe'"
            )
        form = self.sampling.structured
        if self.kind == "endpoint" and form and form.json_schema is None:
            raise ValueError("endpoints know structured answers by json_schema alone; write a choice as {enum: [...]}")
        if self.kind != "endpoint" and self.endpoint is not None:
            raise ValueError(f"'endpoint' says nothing to kind: {self.kind}; write kind: endpoint")
        return self


class ByColumn(Block):
    """Each prompt goes to the teacher that its column's value names."""

    by: str = required("column of the data")
    map: dict[str, str] = required("value to teacher; '*' stands for all other values", min_length=1)


class Cut(Block):
    """A student cut from the layers of a larger model."""

    from_: str = Field(alias="from", description="'teacher', folder, s3:// folder or hub id")
    layers: list[int] = required("decoder layers to keep, in order", min_length=1)


class Random(Block):
    """A student with random weights."""

    random: dict[str, Any] = required("changes to the model's config.json, e.g. {num_hidden_layers: 4}")


class Student(Block):
    """Who learns. Untrained, it is also the baseline."""

    model: str | None = setting(None, "folder, s3:// folder or hub id", "given by init.from", identity=False)
    init: Literal["pretrained"] | Cut | Random = setting("pretrained", "where its weights come from", "the model as is")
    system: str | None = setting(
        None, "system prompt that the student sees", "the task's own, if any, else the data's; null: the data's"
    )
    train: dict[str, Any] = setting({}, "changes to 'train' for this student", "as 'train' says")
    rounds: int | None = setting(None, "on-policy rounds of this student", "as 'rounds' says", ge=0, le=100)

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.model is None and not isinstance(self.init, Cut):
            raise ValueError("a student needs a 'model', or an 'init: {from: …, layers: […]}'")
        return self


class Curate(Block):
    """Which answers are good enough to learn from."""

    filters: list[str] = setting(
        ["empty", "truncated", "overlong", "duplicate", "task"], "filters in order, or module:attr", "each is cheap"
    )
    max_tokens: int = setting(4096, "longest answer in tokens for 'overlong'", "longer ones are mostly loops", ge=1)
    reasoning: bool = setting(
        False,
        "whether the student learns the teacher's reasoning too",
        "answers alone are shorter and cheaper to serve",
    )


class Score(Block):
    """Soft targets: what the teacher thinks of every token of an answer, not only of the one it wrote."""

    kind: Literal["transformers", "vllm"] = setting(
        "transformers", "transformers (a forward pass: any temperature, also sampled) or vllm (top_k at temperature 1)",
        "can do all of it",
    )  # fmt: skip
    support: Literal["top_k", "sampled"] = setting(
        "top_k", "the k likeliest tokens with the mass of all others, or random draws", "exact where it matters most"
    )
    k: int = setting(50, "tokens kept per position for top_k", "over 0.9 of the mass on most text", ge=1)
    draws: int = setting(12, "draws per position for sampled", "unbiased; enough in arXiv 2503.16870", ge=1, le=65535)
    temperature: float = setting(1.0, "softness of the stored distribution", "as the teacher is", gt=0, le=20)
    seed: int = setting(0, "seed of the draws", "repeatable", ge=0)
    mixture: dict[Name, Annotated[float, Field(gt=0)]] = setting(
        {}, "teachers and their weights, whose distributions are mixed token by token: {large: 2, expert: 1}",
        "the first teacher alone",
    )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Its identity; a teacher's name is none, its share is."""
        total = sum(self.mixture.values())
        return super().identity() | {"mixture": [weight / total for weight in self.mixture.values()]}

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if len(self.mixture) == 1:
            raise ValueError("'mixture' takes two teachers and more; e.g. mixture: {large: 2, expert: 1}, or remove it")
        if self.mixture and self.kind == "vllm":
            raise ValueError(
                "a mixture needs every teacher's whole distribution, and vLLM gives the likeliest tokens alone; "
                "write kind: transformers"
            )
        if self.kind == "vllm" and (self.support == "sampled" or self.temperature != 1):
            raise ValueError(
                "vLLM gives top_k at temperature 1 alone; for draws or another temperature, kind: transformers"
            )
        return self


LayerMap = (
    Literal["uniform", "last"]
    | Annotated[list[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]], Field(min_length=1)]
)
LAYER_MAP = "which layers: uniform (all of the student's), last, or pairs [student's, teacher's] from 0"


class Layers(Block):
    """Hidden states that the student matches at each token of an answer. Needs train.teacher: live."""

    weight: float = setting(1.0, "its weight beside the loss's own", "both count", gt=0)
    measure: Literal["cosine", "mse"] = setting(
        "cosine", "1 - cosine, or the mean squared difference", "the two sides' scales may differ"
    )
    map: LayerMap = setting("uniform", LAYER_MAP, "a student cut from its teacher keeps its places")


class Attention(Block):
    """Where the student's attention looks, held against the teacher's. Needs train.teacher: live and train.packing."""

    weight: float = setting(1.0, "its weight beside the loss's own", "both count", gt=0)
    kind: Literal["maps", "values"] = setting(
        "values", "maps (attention, mean over heads) or values (how values resemble each other, arXiv 2012.15828)",
        "asks for no equal heads",
    )  # fmt: skip
    measure: Literal["kl", "mse"] = setting("kl", "KL divergence or squared difference", "both sides are distributions")
    map: LayerMap = setting("last", LAYER_MAP, "each layer costs a map of positions by tokens")


class Loss(Block):
    """What the student minimises at each token of an answer."""

    kind: str = setting(
        "cross_entropy",
        "cross_entropy (the text alone), or with soft targets forward_kl, reverse_kl, jensen_shannon, skew_kl, "
        "skew_reverse_kl, total_variation, adaptive_kl, generalised_kl or module:attr",
        "learns from text: works for every pair of models",
    )
    alpha: float = setting(
        1.0, "share of the soft targets, the rest is cross-entropy on the text", "they say what the text says and more",
        gt=0, le=1,
    )  # fmt: skip
    temperature: float | None = setting(None, "softness of both sides", "as the targets were scored", gt=0, le=20)
    beta: float | None = setting(None, "teacher's share of jensen_shannon's mixture", "0.5: symmetric", gt=0, lt=1)
    skew: float | None = setting(
        None, "share of the other side that skew_kl and skew_reverse_kl mix in", "0.1, as in arXiv 2402.03898",
        gt=0, lt=1,
    )  # fmt: skip
    head: float | None = setting(
        None, "teacher's mass that adaptive_kl calls the head", "0.5, as in arXiv 2404.02657", gt=0, lt=1
    )
    layers: Layers | None = setting(None, "hidden states to match as well", "helps students cut from their teacher")
    attention: Attention | None = setting(None, "attention to match as well", "costs maps on both sides")

    @model_validator(mode="before")
    @classmethod
    def _is_a_block(cls, values: Any) -> Any:
        if isinstance(values, str):
            raise ValueError(f"the loss is a block; write loss: {{kind: {values}}}")
        return values


VALIDATION_LOSS = "validation_loss"


class EarlyStopping(Block):
    """Which validation's student is exported, the best one, and when waiting for a better one ends."""

    metric: str = setting(
        VALIDATION_LOSS, "validation_loss, or a metric of the task on answers that the student writes",
        "costs nothing more",
    )  # fmt: skip
    patience: int | None = setting(
        3, "validations without a better one that end training; null trains to the end", "one or two may be noise", ge=1
    )
    rows: int = setting(
        64, "validation prompts that are answered for a task's metric, chosen by hash", "some seconds on a GPU", ge=1
    )
    max_tokens: int = setting(128, "longest of these answers in tokens", "answers are written one token a pass", ge=1)

    @property
    def by_answers(self) -> bool:
        """Whether the student must write answers to be judged."""
        return self.metric != VALIDATION_LOSS


class Lora(Block):
    """Small matrices trained beside the model's own, which stay as they are (arXiv 2106.09685)."""

    r: int = setting(16, "rank of the added matrices", "near a full fine-tune on most tasks", ge=1)
    alpha: float = setting(32.0, "what is added counts alpha / r", "twice the rank is usual", gt=0)
    dropout: float = setting(0.0, "share of their inputs dropped in learning", "distilled sets are large", ge=0, lt=1)
    targets: list[str] | None = setting(
        None, "layers to train beside, e.g. [q_proj, v_proj]", "every linear layer but the head, as in arXiv 2305.14314",
        min_length=1,
    )  # fmt: skip
    quantize: Literal["nf4"] | None = setting(
        None, "nf4 keeps the model's own weights in 4 bits (QLoRA); needs a GPU", "as stored: no rounding"
    )


FULL_RATE, LORA_RATE = 2e-5, 2e-4
"""Peak learning rates when the recipe gives none."""


class Train(Block):
    """How the student learns."""

    loss: Loss = setting(Loss(), "what is minimised", "learns from text")
    teacher: Literal["stored", "live"] = setting(
        "stored", "stored (soft targets of 'score') or live (the teacher itself beside the student, on every worker)",
        "runs the teacher once for all students and epochs",
    )  # fmt: skip
    lora: Lora | None = setting(None, "train small matrices instead of all weights", "a full fine-tune learns most")
    epochs: float = setting(3, "passes over the examples", "2-5 is usual", gt=0)
    learning_rate: float = Field(
        default_factory=lambda train: FULL_RATE if train.get("lora") is None else LORA_RATE,
        description="peak learning rate",
        json_schema_extra={"why": "2e-5 suits all weights of 1B and more, 2e-4 lora"},
        gt=0,
    )
    batch_size: int = setting(
        32, "examples per optimizer step over all workers; the last takes what is left", "a usual global batch", ge=1
    )
    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit"] = setting(
        "adamw", "adamw, adamw_fused (one kernel per step) or adamw_8bit (a quarter of its memory; needs a GPU)",
        "runs everywhere",
    )  # fmt: skip
    max_length: int = setting(
        2048, "longest example in tokens; longer ones are dropped, counted", "fits most chats", ge=8
    )
    packing: bool = setting(True, "several examples per row, attention kept apart", "no compute spent on padding")
    warmup: float = setting(0.05, "share of steps with rising learning rate", "steady start", ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = setting("cosine", "learning rate after warm-up", "usual for fine-tuning")
    weight_decay: float = setting(0.01, "AdamW weight decay", "usual for fine-tuning", ge=0)
    clip: float = setting(1.0, "largest gradient norm", "usual", gt=0)
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW betas", "usual for language models")
    seed: int = setting(0, "order of examples and dropout", "repeatable", ge=0)
    validations: int = setting(4, "validations over the whole run", "enough to see overfitting", ge=0)
    early_stopping: EarlyStopping | None = setting(
        None, "export the best validation's student, and stop when none is better", "the last step's is taken"
    )
    checkpoint_every: int = setting(200, "optimizer steps between checkpoints", "minutes of work", identity=False, ge=1)
    deepspeed: dict[str, Any] = setting({}, "any DeepSpeed key", "raystill's own ZeRO setting")

    @model_validator(mode="after")
    def _stops_where_it_looks(self) -> Self:
        if self.early_stopping and not self.validations:
            raise ValueError("early_stopping needs validations to choose from; e.g. validations: 10")
        return self


class Rollout(Sampling):
    """How a student's answers are drawn in an on-policy round."""

    temperature: float = setting(1.0, "softness of the draw", "what the student itself thinks", ge=0, le=5)


class OnPolicy(Block):
    """One on-policy round: the student writes, the teacher scores that, and the student learns from it."""

    kind: Literal["vllm", "transformers"] = setting("vllm", "what the student writes with", "the fast engine")
    sampling: Rollout = setting(Rollout(), "how its answers are drawn", "one answer at 1.0")
    lambda_: float = setting(
        1.0, "student's share of the prompts; those not drawn keep the teacher's answers, as in GKD (arXiv 2306.13649)",
        "it learns where it goes wrong itself", alias="lambda", gt=0, le=1,
    )  # fmt: skip
    train: dict[str, Any] = setting({}, "changes to 'train' in rounds, also over a student's own", "as 'train' says")
    engine: dict[str, Any] = setting({}, "any vLLM engine argument", "vLLM's defaults, fitted to the machine")


class Range(Block):
    """All values between two."""

    min: float = required("least value", gt=0)
    max: float = required("largest value")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"the range from {self.min:g} to {self.max:g} is empty; e.g. {{min: 1e-5, max: 1e-4}}")
        return self


Floats = Annotated[list[float], Field(min_length=1)]
Ints = Annotated[list[int], Field(min_length=1)]
FloatsOrRange = Annotated[
    Annotated[Floats, Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "list"),
]


class Tune(Block):
    """What `raystill tune` searches: each key a list of values, or a range. It is no part of a run."""

    learning_rate: FloatsOrRange | None = setting(
        None, "peak learning rate; a range is searched on a log scale", "as 'train' says"
    )
    batch_size: Ints | None = setting(None, "examples per optimizer step", "as 'train' says")
    epochs: FloatsOrRange | None = setting(None, "passes over the examples", "as 'train' says")
    alpha: FloatsOrRange | None = setting(None, "share of the soft targets in the loss", "as 'train' says")
    beta: FloatsOrRange | None = setting(None, "teacher's share of jensen_shannon's mixture", "as 'train' says")
    temperature: Floats | None = setting(
        None, "softness of targets and loss; each value is scored once", "as 'score' says"
    )
    k: Ints | None = setting(
        None, "tokens kept per position; the largest is scored, the others are cut from it", "as 'score' says"
    )
    student: str | None = setting(None, "which of several students", "the first")
    trials: int = setting(16, "combinations tried", "some for each of two or three keys", ge=1)
    rows: int = setting(2000, "train examples of a trial, and validation examples at most", "minutes a trial", ge=1)
    seed: int = setting(0, "seed of the search", "repeatable", ge=0)

    @model_validator(mode="after")
    def _searches(self) -> Self:
        if not self.space():
            raise ValueError(
                f"'tune' names nothing to search; give one of {', '.join(SEARCHED)}, e.g. "
                "learning_rate: {min: 1e-5, max: 1e-4}"
            )
        return self

    def space(self) -> dict[str, "list[Any] | Range"]:
        """What is searched: key to its values or range."""
        return {key: found for key in SEARCHED if (found := getattr(self, key)) is not None}


SEARCHED = ("learning_rate", "batch_size", "epochs", "alpha", "beta", "temperature", "k")


class Objective(Block):
    """What users may wait at most, each in seconds for 95 of 100 requests; at least one of these."""

    ttft_p95_s: float | None = setting(None, "to the first token", "no limit", gt=0)
    tpot_p95_s: float | None = setting(None, "per output token after it", "no limit", gt=0)
    latency_p95_s: float | None = setting(None, "for the whole answer", "no limit", gt=0)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"an objective needs a limit: {', '.join(type(self).model_fields)}; e.g. ttft_p95_s: 1.0")
        return self


RUBRIC = "It answers what was asked, is right, leaves out nothing that matters and adds nothing that does not."


class Judge(Block):
    """A model that reads the answers to held-out prompts. Its figures stand beside the task's own and decide nothing."""

    endpoint: Endpoint | None = setting(None, "the URL where it answers", "'model' says who")
    model: str | None = setting(
        None,
        "a teacher of this recipe, baseline or a student; one with weights is served again for it",
        "a URL is given",
    )
    mode: Literal["pairwise", "rubric"] = setting(
        "pairwise", "pairwise (which of two answers is better, asked in both orders) or rubric (1 to 5 for each answer)",
        "models tell better from worse more surely than how good",
    )  # fmt: skip
    against: list[str] = setting(
        ["teacher", "baseline"], "whose answers each student's are held against when pairwise", "what it keeps and gains",
        min_length=1,
    )  # fmt: skip
    rubric: str = setting(RUBRIC, "what makes an answer good, in words", "holds for most tasks", min_length=1)
    rows: int | None = setting(200, "at most so many held-out rows, chosen by hash", "bounds the cost", ge=1)
    max_tokens: int = setting(512, "longest verdict in tokens", "a few, or a short thought before them", ge=1)
    structured: bool = setting(False, "ask for the verdict's form by a JSON schema", "not every endpoint knows it")
    votes: str | None = setting(
        None,
        "folder of people's votes, with whom its agreement is told",
        "those of this recipe's playground",
        identity=False,
    )

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.endpoint is None) == (self.model is None):
            raise ValueError(
                "a judge is one of 'endpoint' and 'model'; e.g. endpoint: {url: https://api.openai.com/v1, model: gpt-4.1, "
                "key_env: OPENAI_API_KEY}, or model: teacher"
            )
        if gone := set(self.against) - {"teacher", "baseline"}:
            raise ValueError(f"'against' takes teacher and baseline, not '{gone.pop()}'")
        return self


class Suite(Block):
    """Further questions to every compared model; exactly one of 'data' and 'lm_eval'."""

    data: Paths | None = setting(
        None, "rows in the form of 'data', measured by the task's own metrics", "another form", identity=False
    )
    lm_eval: str | None = setting(
        None, "a task of lm-eval that generates text: its name, or the YAML file of one", "another form", identity=False
    )
    limit: int | None = setting(None, "at most so many rows", "all of them", ge=1)
    fewshot: int | None = setting(None, "examples before each question of an lm-eval task", "as the task says", ge=0)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.data is None) == (self.lm_eval is None):
            raise ValueError("a suite is one of 'data' and 'lm_eval'; e.g. hard: {data: hard.jsonl}")
        if self.fewshot is not None and self.lm_eval is None:
            raise ValueError("'fewshot' says nothing to rows of your own, only to an lm-eval task; remove it")
        return self


class Evaluate(Block):
    """How models are compared: over HTTP, on rows nobody learnt from."""

    split: Literal["test", "validation"] = setting("test", "which rows", "held out from teacher and student")
    limit: int | None = setting(None, "at most so many rows, chosen by hash", "all of them", ge=1)
    max_tokens: int = setting(512, "longest answer in tokens", "as the teacher's default", ge=1)
    temperature: float = setting(0.0, "softness of the draw", "greedy: repeatable", ge=0, le=5)
    concurrency: int = setting(
        8, "requests in flight while answering", "keeps a small server busy", identity=False, ge=1
    )
    load: list[int] = setting([1, 8], "concurrencies at which speed is measured", "alone and shared", min_length=1)
    load_requests: int = setting(
        32, "least requests per speed measurement; at least four per user", "seconds per model", ge=1
    )
    objective: Objective | None = setting(
        None, "what users may wait; then further loads are measured, 1, 4, 16, … users, to find how many are served",
        "the stated loads alone",
    )  # fmt: skip
    max_users: int = setting(256, "most users that are tried", "minutes per model", ge=1, le=4096)
    together: bool = setting(False, "serve all models at once", "one at a time fits any machine", identity=False)
    judge: Judge | None = setting(
        None, "a model that reads the answers", "the task's own metrics decide", identity=False
    )
    suites: dict[Name, Suite] = setting({}, "further test data by name", "the held-out rows alone", identity=False)
    slices: list[str] = setting(
        [],
        "columns by which the report tells right answers apart, beside class and length",
        "those two",
        identity=False,
    )
    resamples: int = setting(2000, "bootstrap resamples behind each interval", "two digits", identity=False, ge=100)


class Fallback(Block):
    """The student answers first, and the teacher where the student's answer is not good enough."""

    student: Name | None = setting(None, "who answers first", "the only student")
    check: bool = setting(True, "whether an answer that fails the task's check goes to the teacher", "it is of no use")
    below: float | None = setting(
        None, "mean probability of an answer's tokens below which the teacher answers; `raystill threshold` measures it",
        "the check alone", gt=0, lt=1,
    )  # fmt: skip

    @model_validator(mode="after")
    def _asks_the_teacher(self) -> Self:
        if not self.check and self.below is None:
            raise ValueError("'fallback' never asks the teacher without 'check' and 'below'; e.g. below: 0.8")
        return self


class Capture(Block):
    """Requests that are kept to learn from, where their sender says so."""

    to: str = required("folder or s3:// prefix, which data.train may name", min_length=1)
    redact: list[str] = setting(
        [],
        "regular expressions of what else is taken out",
        "e-mail addresses, phone and card numbers and keys always are",
    )

    @model_validator(mode="after")
    def _can_be_found(self) -> Self:
        for pattern in self.redact:
            try:
                re.compile(pattern)
            except re.error as e:
                raise ValueError(f"'redact' has a wrong regular expression: {e}; mend it, in single quotes") from None
        return self


class Replicas(Block):
    """How many engines of a model there are, in Ray Serve's own words."""

    min_replicas: int = setting(
        1, "fewest; 0 lets the model sleep, and who asks for it then is told that it is warming up", "answers at once",
        identity=False, ge=0,
    )  # fmt: skip
    max_replicas: int = setting(1, "most", "one fits a laptop", identity=False, ge=1)
    target_ongoing_requests: float | None = setting(
        None, "requests per engine above which one more is started", "three quarters of serve.max_ongoing",
        identity=False, gt=0,
    )  # fmt: skip
    downscale_delay_s: float = setting(
        600.0, "seconds without need of an engine until it is let go", "a large one takes minutes to load",
        identity=False, ge=0,
    )  # fmt: skip

    @model_validator(mode="after")
    def _some_replicas(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}; e.g. "
                f"{{min_replicas: {self.min_replicas}, max_replicas: {max(1, self.min_replicas)}}}"
            )
        return self


def _form_of_one(value: Any) -> str:
    return "bounds" if isinstance(value, dict | Replicas) else "number"


def _form_of_replicas(value: Any) -> str:
    by_model = isinstance(value, dict) and not value.keys() & Replicas.model_fields.keys()
    return "models" if by_model else _form_of_one(value)


Count = Annotated[int, Field(ge=1), Tag("number")]
Bounds = Annotated[Replicas, Tag("bounds")]
OfOneModel = Annotated[Count | Bounds, Discriminator(_form_of_one)]
OfEachModel = Annotated[dict[str, OfOneModel], Tag("models")]


class Serve(Block):
    """How models are hosted."""

    host: str = setting("127.0.0.1", "address to bind", "only this machine, unless you say", identity=False)
    port: int = setting(
        8000, "port of the endpoint", "usual for OpenAI-compatible servers", identity=False, ge=0, le=65535
    )
    engine: dict[str, Any] = setting({}, "any vLLM engine argument", "fitted to the machine", identity=True)
    replicas: Annotated[Count | Bounds | OfEachModel, Discriminator(_form_of_replicas)] = setting(
        1, "engines of each model: a number, bounds to grow and shrink in, or {teacher: …, student: …}; evaluate takes one",
        "one fits a laptop", identity=False,
    )  # fmt: skip
    adapters: bool = setting(
        False, "host students trained with train.lora as adapters over their base's one engine",
        "merged, a student is what evaluate measured", identity=False,
    )  # fmt: skip
    max_ongoing: int = setting(64, "requests running per model before queueing", "1.2 batches", identity=False, ge=1)
    max_queued: int = setting(256, "requests waiting per model before 503", "sheds load early", identity=False, ge=0)
    start_timeout_s: float = setting(
        1800.0, "longest time until all models answer", "large weights load for minutes", identity=False, gt=0
    )
    timeout_s: float = setting(120.0, "longest time for one answer", "frees the engine", identity=False, gt=0)
    max_tokens: int = setting(
        4096, "longest answer a request may ask for", "bounds one request's cost", identity=False, ge=1
    )
    max_body_bytes: int = setting(1 << 20, "largest request", "longer is no prompt", identity=False, ge=1024)
    keys_file: str | None = setting(
        None, "YAML of named keys and their limits, a path or s3:// (docs/serve.md)",
        "one key, in the environment's RAYSTILL_API_KEY", identity=False,
    )  # fmt: skip
    allow_origins: list[Annotated[str, Field(pattern=r"^https?://[\w.-]+(:\d+)?$")]] = setting(
        [], "web pages that browsers let ask, e.g. [https://app.example.com]", "none", identity=False
    )
    compare: bool = setting(
        False, "answer POST /v1/compare, which asks several models at once", "one request costs as much as several",
        identity=False,
    )  # fmt: skip
    public_name: Name = setting(
        "auto", "the model name under which canary and fallback choose who answers", "says that the endpoint chooses",
        identity=False,
    )  # fmt: skip
    canary: dict[Name, Annotated[float, Field(gt=0, le=1)]] = setting(
        {}, "share of users under the public name by model, e.g. {student: 0.1}; the teacher has the rest",
        "who asks names a model", identity=False,
    )  # fmt: skip
    fallback: Fallback | None = setting(
        None, "under the public name, the teacher where the student's answer is not good enough", "who asks names a model",
        identity=False,
    )  # fmt: skip
    capture: Capture | None = setting(None, "requests to keep, where their sender says so", "none", identity=False)

    @model_validator(mode="after")
    def _shares_of_one(self) -> Self:
        if (total := sum(self.canary.values())) > 1 + 1e-9:
            raise ValueError(
                f"the shares of 'canary' sum to {total:g}, more than all users; e.g. canary: {{student: 0.1}}"
            )
        return self

    def replicas_of(self, model: str) -> Replicas:
        """How many engines host a model."""
        asked = self.replicas.get(model, 1) if isinstance(self.replicas, dict) else self.replicas
        return Replicas(min_replicas=asked, max_replicas=asked) if isinstance(asked, int) else asked


class Prices(Block):
    """What time costs, for the plan, the report and the budget."""

    machine_hour: float = setting(
        0.0, "price of one machine hour", "unknown: then no cost is shown", ge=0, identity=False
    )
    machine_gpus: int | None = setting(
        None, "GPUs of the machine whose hour has this price", "this machine's, or 8 where it has none", ge=1,
        identity=False,
    )  # fmt: skip
    currency: str = setting("USD", "its currency", "usual", identity=False)


class Bound(Block):
    """What a figure of the student must keep to; one of the two, or both."""

    min: float | None = setting(None, "least value that is good enough", "'max' says what", identity=False)
    max: float | None = setting(None, "largest value that is good enough", "'min' says what", identity=False)

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a bound needs min or max, e.g. retention: {min: 0.92}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} lies above max {self.max:g}: no value meets both")
        return self

    def __str__(self) -> str:
        least, most = self.min is not None, self.max is not None
        return " and ".join([*([f">= {self.min:g}"] if least else []), *([f"<= {self.max:g}"] if most else [])])

    def holds(self, value: float) -> bool:
        """Whether a value is good enough."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def beyond(self, interval: Sequence[float]) -> bool:
        """Whether all of an interval (low, high) is not."""
        return (self.min is not None and interval[1] < self.min) or (self.max is not None and interval[0] > self.max)


class Budget(Block):
    """What a run may cost."""

    usd: float | None = setting(
        None, "most that endpoints and, by 'prices', machines may cost, in US dollars", "no limit", identity=False, gt=0
    )
    gpu_hours: float | None = setting(
        None, "most hours of GPUs, those of the Ray cluster while it is held", "no limit", identity=False, gt=0
    )


class Generate(Block):
    """Where and how wide generation runs."""

    replicas: int | tuple[int, int] = setting(
        1, "teacher engines; [least, most] grows and shrinks with the load", "one fits a laptop", identity=False
    )
    cpus: int | None = setting(
        None, "CPUs per engine", "all of the machine's, shared by the replicas", identity=False, ge=1
    )
    gpus: int | None = setting(
        None, "GPUs per engine", "tensor times pipeline parallelism, where there are GPUs", identity=False, ge=0
    )
    tensor_parallel: int | None = setting(
        None, "GPUs that share every layer, on one node", "the teacher's engine says it, else 1", identity=False, ge=1
    )
    pipeline_parallel: int | None = setting(
        None, "stages that a model's layers are cut into, over several nodes where one is too small",
        "the teacher's engine says it, else 1", identity=False, ge=1,
    )  # fmt: skip
    units_in_flight: int = setting(
        8, "units that one engine works on at once", "keeps a batch of 256 full; 16 for larger ones (docs/scale.md)",
        identity=False, ge=1,
    )  # fmt: skip

    @model_validator(mode="after")
    def _some_replicas(self) -> Self:
        least, most = (self.replicas, self.replicas) if isinstance(self.replicas, int) else self.replicas
        if not 1 <= least <= most:
            raise ValueError(f"replicas: {[least, most]} must be 1 <= least <= most; e.g. replicas: [1, 8]")
        return self


class Workers(Block):
    """Where and how wide training runs. Results do not depend on it."""

    workers: int | tuple[int, int] | None = setting(
        None, "training processes; [least, most] takes what the cluster has, anew after a lost node or an added one",
        "one per GPU, else one per two cores", identity=False,
    )  # fmt: skip
    zero: int = setting(
        1, "DeepSpeed ZeRO stage 0-3", "shards the optimizer at no cost in speed", identity=False, ge=0, le=3
    )
    micro_tokens: int = setting(
        2048, "tokens per forward pass of a worker", "fits a small machine", identity=False, ge=8
    )
    activation_checkpointing: bool = setting(
        False, "compute activations again instead of keeping them: less memory, a third more time", "most students fit",
        identity=False,
    )  # fmt: skip
    compile: bool = setting(
        False,
        "decoder layers compiled by torch.compile",
        "compiling takes a minute, and the first steps",
        identity=False,
    )
    cpus: int | None = setting(None, "CPUs per worker", "the machine's, shared", identity=False, ge=1)
    resume_failures: int = setting(
        2, "worker failures survived by resuming", "a lost node is normal", identity=False, ge=0
    )

    @model_validator(mode="after")
    def _some_workers(self) -> Self:
        asked = 1 if self.workers is None else self.workers
        least, most = asked if isinstance(asked, tuple) else (asked, asked)
        if not 1 <= least <= most:
            raise ValueError(f"workers: {[least, most]} must be 1 <= least <= most; e.g. workers: [2, 8]")
        return self

    @property
    def most(self) -> int | None:
        """The most workers that may run; None where the machine decides."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers


class Hours(Block):
    """How long a stage's cluster may live; then it is deleted, and what is committed stays."""

    generate: float = setting(24.0, "longest generate", "50,000 prompts of the largest teachers", identity=False, gt=0)
    score: float = setting(12.0, "longest score", "a forward pass is faster than answers", identity=False, gt=0)
    train: float = setting(24.0, "longest train", "a day bounds what a hung run costs", identity=False, gt=0)
    evaluate: float = setting(6.0, "longest evaluate", "a load and 1,000 answers per model", identity=False, gt=0)


class Kubernetes(Block):
    """What `raystill submit --to k8s` asks a cluster for; docs/kubernetes.md says what each becomes."""

    image: str | None = setting(
        None, "image of every pod by digest, registry/name@sha256:…", "none is published: cluster/README.md builds yours",
        identity=False,
    )  # fmt: skip
    cpu_image: str | None = setting(None, "image of the driver, by digest", "'image' holds all of it", identity=False)
    namespace: str = setting("raystill", "namespace of everything", "what k8s/base makes", identity=False)
    service_account: str = setting(
        "raystill", "first part of the service accounts' names; each stage has its own, e.g. raystill-train",
        "what k8s/base makes", identity=False,
    )  # fmt: skip
    gpu: str = setting("h100", "GPU type, e.g. h200; docs/kubernetes.md lists them", "the most common", identity=False)
    node_selector: dict[str, str] | None = setting(
        None, "labels of the GPU nodes", "nvidia.com/gpu.product, which NVIDIA's GPU operator sets", identity=False
    )
    spot: dict[str, str] = setting(
        {}, "label of spot nodes, e.g. {karpenter.sh/capacity-type: spot}; teachers then run there, all else never; needs "
        "k8s/components/spot",
        "every cloud names them differently, so teachers stay on demand", identity=False,
    )  # fmt: skip
    queue: str | None = setting(
        None, "Kueue's LocalQueue; a stage then starts whole or waits", "not every cluster has Kueue", identity=False
    )
    storage_class: str | None = setting(
        None, "storage class of each pod's model cache", "the node's own disk", identity=False
    )
    cache_gb: int = setting(1000, "model cache per pod in GB", "DeepSeek-V3 takes 690", identity=False, ge=1)
    memory_gib: int = setting(
        16, "memory of the driver and of each head in GiB", "tokenising needs 2; a cut student is made here",
        identity=False, ge=4,
    )  # fmt: skip
    secrets: dict[str, str] = setting(
        {"RAYSTILL_API_KEY": "raystill-serve/key"},
        "environment variables from Secrets, as NAME: secret/key, e.g. {HF_TOKEN: hf/token}",
        "the served endpoint's bearer key; stores are reached by service account", identity=False,
    )  # fmt: skip
    environment: dict[str, str] = setting(
        {}, "further environment variables, no secrets, e.g. {AWS_REGION: eu-central-1}", "none", identity=False
    )
    rdma: str | None = setting(
        None, "resource of the fast network on train's pods, e.g. rdma/ib; needs k8s/components/rdma",
        "TCP works everywhere", identity=False,
    )  # fmt: skip
    redis: str | None = setting(
        None, "host:port of a Redis that keeps the served endpoint up while its head is replaced; see "
        "k8s/components/gcs-fault-tolerance", "one more thing to run", identity=False,
    )  # fmt: skip
    upgrade: Literal["None", "NewCluster"] = setting(
        "None", "what a changed RayService does: None changes models in place with a gap, NewCluster starts a second cluster "
        "beside the first and goes over to it when it answers", "there need not be twice the GPUs", identity=False,
    )  # fmt: skip
    retries: int = setting(2, "new clusters per stage after failures", "a lost head is rare", identity=False, ge=0)
    pending_minutes: int = setting(
        60, "longest wait for a stage's pods to run", "node pools grow in minutes; never for ever", identity=False, ge=1
    )
    hours: Hours = setting(Hours(), "longest time of each stage", "bounds what a hung stage costs", identity=False)


class Compute(Block):
    """Where things run; never identity. May live in a file of its own (--compute FILE)."""

    cpus: int | None = setting(None, "logical CPUs of the local Ray", "what the stages need", identity=False, ge=1)
    generate: Generate = setting(Generate(), "teacher engines", "one replica", identity=False)
    rollout: Generate = setting(Generate(), "student engines of on-policy rounds", "one replica", identity=False)
    train: Workers = setting(Workers(), "training workers", "fitted to the machine", identity=False)
    kubernetes: Kubernetes = setting(
        Kubernetes(), "what submit --to k8s asks for", "nothing runs there", identity=False
    )


class Recipe(Block):
    """One distillation, from prompts to report."""

    name: Name = required("name of the run: lower-case letters, digits, '-'")
    task: Task = required("what a right answer is: a kind such as classification, or a map as below")
    data: Data = required("prompts")
    teacher: Teacher = required("who answers; with several, the one that the report compares with")
    teachers: dict[Name, Teacher] = setting({}, "several teachers by name, the first is compared with", "one teacher")
    route: Literal["all", "cascade"] | ByColumn = setting(
        "all",
        "who answers what: all everything, cascade the next where one's answer fails the task's check, or "
        "{by: column, map: {value: teacher}}",
        "every teacher sees every prompt",
    )
    student: Student | None = setting(None, "who learns", "one of student and students")
    students: dict[Name, Student] = setting({}, "several students by name, sharing one teacher", "one student")
    curate: Curate = setting(Curate(), "which answers are kept", "drops what is plainly bad")
    score: Score | None = setting(None, "soft targets from the teacher", "the student learns from text alone")
    train: Train = setting(Train(), "how students learn", "a full fine-tune")
    rounds: int = setting(0, "on-policy rounds after training on the teacher's answers", "offline alone", ge=0, le=100)
    on_policy: OnPolicy = setting(OnPolicy(), "what a round is", "all of the student's own text")
    tune: Tune | None = setting(None, "what `raystill tune` searches", "nothing", identity=False)
    evaluate: Evaluate = setting(Evaluate(), "how models are compared", "all test rows, greedy")
    serve: Serve = setting(Serve(), "how models are hosted", "this machine only")
    gate: dict[str, Bound] = setting(
        {}, "what a student must keep and save: retention, gap_closed, latency_ratio, memory_ratio, cost_ratio, users_ratio, "
        "any metric", "nothing is asked", identity=False,
    )  # fmt: skip
    prices: Prices = setting(Prices(), "what time costs", "unknown", identity=False)
    budget: Budget = setting(Budget(), "what a run may cost", "no limit", identity=False)
    compute: Compute = setting(Compute(), "where things run", "fitted to the machine", identity=False)
    trackers: list[str] = setting(["jsonl"], "where scalars go: jsonl, tensorboard, mlflow", "a file", identity=False)
    max_error_rate: float = setting(
        0.05, "share of bad rows a stage survives", "more is a bug", identity=False, ge=0, le=1
    )
    root: str = setting("runs", "folder or s3:// prefix that holds every artifact", "beside the recipe", identity=False)

    @model_validator(mode="before")
    @classmethod
    def _first_teacher(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("teachers"), dict) and values["teachers"]:
            if "teacher" in values:
                raise ValueError(
                    "a recipe has one of 'teacher' and 'teachers'; move 'teacher' into 'teachers' by a name"
                )
            return {**values, "teacher": next(iter(values["teachers"].values()))}
        return values

    @model_validator(mode="after")
    def _one_student_form(self) -> Self:
        if (self.student is None) == (not self.students):
            raise ValueError("a recipe needs exactly one of 'student' and 'students'")
        if self.score and (gone := set(self.score.mixture) - set(self.all_teachers())):
            raise ValueError(
                f"score.mixture names no teacher of this recipe: {', '.join(sorted(gone))}; "
                f"there are: {', '.join(self.all_teachers())}"
            )
        if clash := {"teacher", "baseline"} & set(self.students):
            raise ValueError(f"'{clash.pop()}' is a fixed name in the report; call the student something else")
        if clash := set(self.teachers) & set(self.students):
            raise ValueError(f"'{clash.pop()}' is a teacher and a student; give one of them another name")
        return self

    @model_validator(mode="after")
    def _routes_to_models(self) -> Self:
        serve, there = self.serve, self.model_names()
        if gone := set(serve.canary) - set(there):
            raise ValueError(f"serve.canary names no model of this recipe: {gone.pop()}; there are: {', '.join(there)}")
        if serve.public_name in there:
            raise ValueError(
                f"serve.public_name '{serve.public_name}' is a model's own name; choose another, e.g. auto"
            )
        hosted = self.teacher.model or self.teacher.recipe
        if not hosted and ("teacher" in self.arms() or serve.fallback):
            raise ValueError(
                f"serve.canary and serve.fallback ask a hosted teacher, and a '{self.teacher.kind}' teacher has no weights "
                "here; give canary shares that sum to 1, or name a teacher.model"
            )
        if serve.fallback and self.fallback_student() not in self.all_students():
            raise ValueError(f"serve.fallback.student must be one of: {', '.join(self.all_students())}")
        if serve.fallback and self.fallback_student() not in self.arms():
            raise ValueError(
                f"serve.canary gives {self.fallback_student()} no share, so its fallback never answers; give it one, or remove "
                "serve.fallback"
            )
        return self

    @model_validator(mode="after")
    def _replicas_of_its_models(self) -> Self:
        asked, there = self.serve.replicas, self.model_names()
        if isinstance(asked, dict) and (gone := asked.keys() - set(there)):
            raise ValueError(
                f"serve.replicas names no model of this recipe: {', '.join(sorted(gone))}; there are: {', '.join(there)}, and "
                f"bounds for all of them are {', '.join(Replicas.model_fields)}"
            )
        return self

    def all_teachers(self) -> dict[str, Teacher]:
        """Teachers by name, in order; a single one is called 'teacher'."""
        return dict(self.teachers) or {"teacher": self.teacher}

    def all_students(self) -> dict[str, Student]:
        """Students by name; a single one is called 'student'."""
        return {"student": self.student} if self.student else dict(self.students)

    def model_names(self) -> list[str]:
        """All that a run may compare and host: the teacher, each student before training, and each student."""
        students = self.all_students()
        return ["teacher", *(["baseline"] if self.student else (f"{name}-baseline" for name in students)), *students]

    def arms(self) -> dict[str, float]:
        """Who answers under serve.public_name, with shares of 1; empty where nobody does."""
        shares = dict(self.serve.canary)
        if not shares:
            return {self.fallback_student(): 1.0} if self.serve.fallback else {}
        if (rest := 1 - sum(shares.values())) > 1e-9:
            shares["teacher"] = shares.get("teacher", 0.0) + rest
        return shares

    def fallback_student(self) -> str:
        """Whom the teacher stands behind; empty where several students could be meant."""
        asked, students = self.serve.fallback, list(self.all_students())
        return asked.student if asked and asked.student else students[0] if len(students) == 1 else ""

    def train_for(self, student: Student) -> Train:
        """`train` with this student's own changes, validated."""
        return Train.model_validate(self.train.model_dump(exclude_unset=True) | student.train)

    def train_in_rounds(self, student: Student) -> Train:
        """`train_for` with the changes of on-policy rounds, validated."""
        return Train.model_validate(self.train_for(student).model_dump(exclude_unset=True) | self.on_policy.train)

    def rounds_of(self, student: Student) -> int:
        """On-policy rounds of a student."""
        return self.rounds if student.rounds is None else student.rounds
