"""limits: what one request may ask for."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystill.serving import limits
from raystill.serving.limits import DEEPEST, SCHEMA_BYTES


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"messages": value}


def schema(**said: Any) -> Any:
    written = {"type": "object", "properties": {"name": {"type": "string", **said}}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": written}}}


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (nested(DEEPEST + 1), "nested deeper"),
        ({"n": 1000}, "'n' is not a number from 0 to 8"),
        ({"n": "1000"}, "'n' is not a number from 0 to 8"),
        ({"best_of": 9}, "'best_of' is not a number"),
        ({"max_tokens": 101}, "'max_tokens' is not a number from 0 to 100"),
        ({"max_completion_tokens": 1e12}, "'max_completion_tokens' is not a number from 0 to 100"),
        ({"logprobs": 10_000}, "'logprobs'"),
        ({"top_logprobs": 21}, "'top_logprobs'"),
        ({"prompt_logprobs": -1}, "'prompt_logprobs'"),
        ({"prompt": ["a"] * 9, "n": 8}, "prompts times 'n'"),
        ({"messages": [{"role": "user", "content": ""}] * 2000}, "'messages' has more"),
        ({"bad_words": ["a"] * 100}, "'bad_words' has more"),
        ({"logit_bias": dict.fromkeys(map(str, range(400)), 1)}, "'logit_bias' has more"),
        ({"stop": ["a"] * 40}, "'stop' has more"),
        ({"stop": "a" * 300}, "'stop' is longer"),
        ({"stop": ["a", "b" * 300]}, "'stop' is longer"),
        ({"model": "m" * 1000}, "'model' is longer"),
        ({"use_beam_search": True}, "'use_beam_search' is not accepted"),
        ({"chat_template": "{{ ''.__class__ }}"}, "'chat_template' is not accepted"),
        ({"chat_template_kwargs": {"tools": "{{ x }}"}}, "'chat_template_kwargs' is not accepted"),
        ({"structured_outputs": {"regex": "(a+)+$"}}, "'structured_outputs' is not accepted"),
        ({"priority": -1000}, "'priority' is not accepted"),
        ({"messages": [IMAGE]}, "only text parts"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "text or a list of parts"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "'response_format' may only be"),
        (schema(pattern="(a{1,1000}){1,1000}"), "may not say 'pattern'"),
        (schema(maxLength=10**9), "'maxLength' in a schema"),
        (schema(enum=["x" * SCHEMA_BYTES]), "is larger than"),
        ({"tools": [{"type": "function", "function": {"parameters": {"minItems": 10**6}}}]}, "'minItems'"),
    ],
)
def test_a_request_without_bound_is_refused(asked: Any, says: str) -> None:
    assert says in (limits.mistake(asked, 100) or "passed")


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "logprobs": True},
        {"prompt": [1, 2, 3] * 50, "n": 8, "logprobs": 5},
        {"response_format": {"type": "json_object"}, "tool_choice": "auto", "stop": ["a"], "max_tokens": None},
        {"tool_choice": "required", "tools": [{"type": "function", "function": {"parameters": {"minItems": 1}}}]},
        schema(minLength=1, maxLength=40),
        {"response_format": {"type": "json_schema", "json_schema": {"properties": {"pattern": {"type": "string"}}}}},
    ],
)
def test_what_openais_client_sends_passes(asked: Any) -> None:
    assert limits.mistake(asked, 100) is None


@pytest.mark.parametrize(
    "body",
    [b"not json", b"", b"\xff\xfe{}", b'{"max_tokens": NaN}', b'{"stop": "\\ud800"}', b"[" * 100_000],
    ids=["words", "nothing", "utf-16", "nan", "surrogate", "deep"],
)
def test_what_is_no_json_is_no_request(body: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        limits.parsed(body)


def test_a_list_is_no_request() -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        limits.parsed(b"[]")


FIELDS = st.sampled_from(
    [*limits.MOST, *limits.MOST_LISTED, *limits.LONGEST, *limits.REFUSED, "prompt", "response_format", "tool_choice"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_is_judged_and_never_repeated(asked: dict[str, Any]) -> None:
    asked["user"] = "canary-7d1f"
    request = limits.parsed(json.dumps(asked).encode())
    assert "canary" not in (limits.mistake(request, 100) or "")
