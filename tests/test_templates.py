"""templates: joins columns, names what it needs, and can neither reach Python nor run away."""

import time
from typing import Any

import pytest

from raystill import templates
from raystill.errors import RecipeError
from raystill.templates import Unrenderable


def render(text: str, max_bytes: int = 10_000, **values: Any) -> str:
    return templates.parse(text, "data.prompt").render(values, max_bytes)


def test_columns_are_found_and_joined() -> None:
    template = templates.parse("{% for t in turns %}{{ loop.index }}: {{ t.text | trim }}\n{% endfor %}{{ end }}", "k")
    assert template.columns == {"turns", "end"}
    assert template.render({"turns": [{"text": " a "}, {"text": "b"}], "end": "!"}, 100) == "1: a\n2: b\n!"


@pytest.mark.parametrize("text", ["{{ 1 }}", "{{ 'a' }}", "{{ range(3) }}"])
def test_a_template_that_names_no_column_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="names no column"):
        templates.parse(text, "data.prompt")


def test_a_template_that_is_no_jinja_says_the_line() -> None:
    with pytest.raises(RecipeError, match=r"data\.prompt is no template \(line 2"):
        templates.parse("{{ a }}\n{% for %}", "data.prompt")


@pytest.mark.parametrize(
    "text",
    [
        "{{ a * 1000 }}",
        "{{ 9 ** 9 ** 9 }}{{ a }}",
        "{{ '%99999999d' % a }}",
        "{{ '%99999999d' | format(a) }}",
        "{{ a | center(999999999) }}",
        "{{ a | truncate(999999999) }}",
        "{{ a.ljust(9) }}",
        "{{ a.format(1) }}",
        "{{ cycler(a) }}",
        "{{ a | join(a) }}",
        "{% set b = a ~ a %}{{ b }}",
        "{% with b = a %}{{ b }}{% endwith %}",
        "{% macro m() %}{{ a }}{% endmacro %}{{ m() }}",
        "{% include 'x' %}{{ a }}",
    ],
)
def test_what_could_run_away_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="may not use"):
        templates.parse(text, "data.prompt")


def test_nested_loops_end_soon() -> None:
    text = "{{ x }}"
    for name in "abc":
        text = f"{{% for {name} in range(9999) %}}{text}{{% endfor %}}"
    started = time.perf_counter()
    with pytest.raises(Unrenderable, match="loops take more than"):
        render(text, x="")
    assert time.perf_counter() - started < 1


def test_the_text_may_not_outgrow_its_limit() -> None:
    with pytest.raises(Unrenderable, match="longer than max_row_bytes"):
        render("{% for i in range(9999) %}{{ x }}{% endfor %}", max_bytes=1000, x="x" * 100)


@pytest.mark.parametrize("text", ["{{ x.__class__.__mro__ }}", "{{ x['__class__'] }}", "{{ y }}{{ x.missing }}"])
def test_python_and_missing_columns_cannot_be_reached(text: str) -> None:
    with pytest.raises(Unrenderable):
        render(text, x="a")


def test_a_failing_row_is_told_without_its_content() -> None:
    with pytest.raises(Unrenderable, match=r"fails on this row \(TypeError\)$"):
        render("{{ x + 1 }}", x="secret")
