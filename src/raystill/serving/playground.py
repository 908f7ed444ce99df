"""The page at / on which people try all models at once, and the little that it asks beside OpenAI's routes.

One file and no request to anywhere else: style and script stand in it, and the policy names their hashes, so nothing else
runs, whatever a model says. The page needs no key and holds nothing; what it asks for does.
"""

import base64
import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse

from raystill import artifacts
from raystill.artifacts import Table
from raystill.errors import StorageError
from raystill.records import Load, Prompt, Split
from raystill.serving.votes import Vote, Votes, summary

HERE = Path(__file__).parent
ROWS = 200
"""Held-out rows that the page offers to choose from."""


def router(
    settings: Mapping[str, Any], run: Mapping[str, str], prices: Mapping[str, float], max_tokens: int
) -> APIRouter:
    """Its routes. `settings` are pipeline.playground's, `run` names a run's artifacts, prices are of an output token."""
    made, votes = APIRouter(), Votes(settings["votes"])
    html, policy = page()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    def whole() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    def told() -> dict[str, Any]:
        shown = {key: settings[key] for key in ("views", "sampling", "currency")}
        return {**shown, "prices": prices, "most_tokens": max_tokens}

    def rows() -> list[dict[str, Any]]:
        with _stored():
            return rows_of(run, settings["split"])

    def counted() -> dict[str, Any]:
        with _stored():
            return summary(votes.all())

    def vote(one: Vote) -> dict[str, Any]:
        if mistake := one.mistake():
            raise HTTPException(400, mistake)
        with _stored():
            votes.add(one)
            return summary(votes.all())

    for path, answer in {"/": whole, "/v1/playground": told, "/v1/rows": rows, "/v1/votes": counted}.items():
        made.get(path)(answer)
    made.post("/v1/votes")(vote)
    return made


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    try:
        yield
    except StorageError as e:
        raise HTTPException(503, str(e)) from e


def rows_of(run: Mapping[str, str], split: Split) -> list[dict[str, Any]]:
    """The first held-out rows that are plain text, with their references; none where the run's are gone."""
    table = _table(run, "prepare")
    plain = (row for row in table.rows(Prompt, split) if not row.tools) if table else iter([])
    return [
        {
            "id": row.id,
            "messages": [{"role": m.role, "content": m.content} for m in row.messages],
            "reference": row.reference,
        }
        for row in itertools.islice(plain, ROWS)
    ]


def prices_of(run: Mapping[str, str], machine_hour: float, models: Iterable[str]) -> dict[str, float]:
    """What an output token of each model costs: machine time at the highest throughput that the run measured.

    A model is left out where the hour has no price or nothing was measured.
    """
    tables = {name: _table(run, f"load/{name}") for name in models}
    loads = {
        name: max((row.output_tokens_per_s for row in t.rows(Load)), default=0.0) for name, t in tables.items() if t
    }
    return {
        name: machine_hour / 3600 / tokens_per_s
        for name, tokens_per_s in loads.items()
        if tokens_per_s and machine_hour
    }


def _table(run: Mapping[str, str], name: str) -> Table | None:
    return artifacts.load(Table, run[name]) if name in run else None


def page() -> tuple[str, str]:
    """The page with its style and script in it, and the policy under which a browser runs exactly these."""
    style, script = ((HERE / f"playground.{kind}").read_text() for kind in ("css", "js"))
    html = (HERE / "playground.html").read_text().replace("/*style*/", style).replace("/*script*/", script)
    sources = {kind: _hash(text) for kind, text in (("style", style), ("script", script))}
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
