"""The playground: its routes behind the guard, and the page in a real browser, before models that say what they are told."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from browser import CHROMIUM, Page, browser
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from raystill import artifacts, pipeline
from raystill.artifacts import Manifest, Table
from raystill.recipe import Recipe
from raystill.records import Load, Message, Prompt
from raystill.serving import playground
from raystill.serving.guard import Bounds, Guard
from raystill.serving.keys import Key, digest

KEY = "the right key"
HOSTILE = "</script><img src=x onerror='window.harmed=1'><script>window.harmed=1</script>"
SAID = {
    "teacher": "A refund takes five working days. Please keep the receipt until then.",
    "student": "A refund takes three working days. Please keep the receipt.",
    "hostile-baseline": HOSTILE,
}
NEXT_S = 0.004
"""Time between two pieces of an answer."""


def recipe(root: Path) -> Recipe:
    values: dict[str, Any] = {
        "name": "support",
        "task": "conversation",
        "data": {"train": "x.jsonl"},
        "teacher": {"model": "t", "system": "You know everything.", "examples": [{"user": "Hi", "assistant": "Hello"}]},
        "student": {"model": "s"},
        "evaluate": {"max_tokens": 40},
        "prices": {"machine_hour": 3.6, "currency": "EUR"},
        "root": str(root),
    }
    return Recipe.model_validate(values)


def run(root: Path) -> dict[str, str]:
    """A run's artifacts as far as the page needs them: three held-out rows, one with an earlier turn, and a load."""
    asked = [
        [Message("user", "How long does a refund take?")],
        [Message("user", "Hello"), Message("assistant", "Hello!"), Message("user", "Where is my card?")],
        [Message("user", "<b>Bold?</b>")],
    ]
    rows = [
        Prompt(f"r{i}", None, said, None, "conversation", "x", "test", "Five working days." if i == 0 else None, "{}")
        for i, said in enumerate(asked)
    ]
    load = Load("student", "here", 8, 16, 0, 1.0, 0.1, 0.2, 0.01, 0.3, 0.4, 100.0, 5.0, 1, 1)
    made = {"prepare": (Prompt, "test", rows), "load/student": (Load, "load", [load])}
    found = {}
    for name, (kind, part, values) in made.items():
        url = str(root / name)
        files = [artifacts.write_part(url, part, kind, values)]
        artifacts.commit(Table, url, Manifest(name, 1, name, 1, "f" * 12, {}, {}, files))
        found[name] = url
    return found


def endpoint(root: Path) -> FastAPI:
    """The page's routes behind the guard, and OpenAI's two as far as the page asks them."""
    app = FastAPI()
    made, models = run(root), list(SAID)
    told = pipeline.playground(recipe(root), ["teacher", "student"])
    prices = playground.prices_of(made, told["machine_hour"], models)
    app.include_router(playground.router(told, made, prices, 1000))
    app.state.seen = []

    @app.exception_handler(HTTPException)
    def openais(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": {"message": error.detail}}, error.status_code)

    @app.get("/v1/models")
    def known() -> dict[str, Any]:
        return {"data": [{"id": name} for name in models]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        asked = await request.json()
        app.state.seen.append(asked)
        last = asked["messages"][-1]["content"]
        if last == "busy" and asked["model"] == "student":
            message = {"error": {"message": "64 answers are being written"}}
            return JSONResponse(message, 429, {"Retry-After": "7"})
        return StreamingResponse(stream(asked["model"], last), media_type="text/event-stream")

    app.add_middleware(Guard, keys=[Key("ours", digest(KEY))], bounds=Bounds(1 << 16, 1000, timeout_s=60, in_flight=9))
    return app


async def stream(model: str, asked: str) -> AsyncIterator[str]:
    """An answer word by word as vLLM sends it; never ending where that is asked for, and cut where that is."""
    words = SAID[model].split(" ") * (10_000 if asked == "endless" else 1)
    for count, word in enumerate(words, 1):
        usage = {"prompt_tokens": 9, "completion_tokens": count}
        delta = {"content": word if count == 1 else f" {word}"}
        yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}], 'usage': usage})}\n\n"
        if asked == "cut" and count == 3:
            return
        await asyncio.sleep(NEXT_S)
    yield "data: [DONE]\n\n"


def ask(app: FastAPI, method: str, path: str, key: str | None = KEY, **request: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(
                method, path, headers={"Authorization": f"Bearer {key}"} if key else {}, **request
            )

    return asyncio.run(go())


def test_only_the_empty_page_is_open(tmp_path: Path) -> None:
    app = endpoint(tmp_path)
    answer = ask(app, "GET", "/", key=None)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", answer.text)
    for path in ("/v1/playground", "/v1/rows", "/v1/votes"):
        assert ask(app, "GET", path, key=None).status_code == 401
    assert ask(app, "POST", "/", key=None).status_code == 401


def test_what_the_page_is_told(tmp_path: Path) -> None:
    app = endpoint(tmp_path)
    told = ask(app, "GET", "/v1/playground").json()
    assert told["views"]["teacher"]["examples"] == [{"user": "Hi", "assistant": "Hello"}]
    assert told["views"]["student"]["system"] is None
    assert told["prices"] == {"student": pytest.approx(3.6 / 3600 / 100)}
    assert told["currency"] == "EUR"
    assert told["sampling"] == {"temperature": 0.0, "max_tokens": 40}
    rows = ask(app, "GET", "/v1/rows").json()
    assert [row["reference"] for row in rows] == ["Five working days.", None, None]
    assert [message["role"] for message in rows[1]["messages"]] == ["user", "assistant", "user"]


def test_without_a_run_there_are_no_rows_and_no_prices(tmp_path: Path) -> None:
    assert playground.rows_of({}, "test") == []
    assert playground.rows_of({"prepare": str(tmp_path / "gone")}, "test") == []
    assert playground.prices_of({}, 3.6, ["student"]) == {}
    assert playground.prices_of(run(tmp_path), 0.0, ["student"]) == {}


def test_votes_are_kept_and_counted_over_http(tmp_path: Path) -> None:
    app = endpoint(tmp_path)
    vote = {"messages": [], "answers": {"teacher": "a", "student": "b"}, "preferred": "student", "row": "r0"}
    assert ask(app, "POST", "/v1/votes", json=vote).json()["votes"] == 1
    wrong = ask(app, "POST", "/v1/votes", json=vote | {"preferred": "nobody"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (
        400,
        "'preferred' is none of the models in 'answers'",
    )
    assert ask(app, "POST", "/v1/votes", json={"answers": []}).status_code == 422
    (pair,) = ask(app, "GET", "/v1/votes").json()["pairs"]
    assert (pair["left"], pair["left_better"], pair["right_better"]) == ("student", 1, 0)
    assert len(list((tmp_path / "votes" / "support").iterdir())) == 1


def test_a_store_that_is_away_is_said(tmp_path: Path) -> None:
    app = endpoint(tmp_path)
    (tmp_path / "votes").write_text("a file where the folder should be")
    vote = {"messages": [], "answers": {"teacher": "a", "student": "b"}, "preferred": None}
    answer = ask(app, "POST", "/v1/votes", json=vote)
    assert answer.status_code == 503
    assert "votes" in answer.json()["error"]["message"]


# In a browser.


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FastAPI, str]]:
    app = endpoint(tmp_path)
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield app, f"http://127.0.0.1:{bound.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(chromium: Page, served: tuple[FastAPI, str]) -> Iterator[Page]:
    """The page with its key given. Nothing may be refused by its policy, and nothing may throw."""
    chromium.problems.clear()
    chromium.open(served[1])
    give_key(chromium, KEY)
    chromium.until("page.rows.length")
    yield chromium
    assert chromium.value("window.harmed === undefined")
    assert chromium.problems == []


def give_key(page: Page, key: str) -> None:
    page.until("document.getElementById('key').open")
    page.write("#given", key)
    page.click("#key button")


def send(page: Page, prompt: str, *models: str) -> None:
    """Choose models, write a prompt and press Ctrl+Enter."""
    page.value(f"document.querySelectorAll('#models input').forEach(i => i.checked = {list(models)}.includes(i.value))")
    page.value("document.getElementById('prompt').value = ''")
    page.write("#prompt", prompt)
    page.press("Enter", "Control")


def done(page: Page) -> None:
    page.until("document.getElementById('stop').disabled")


def test_a_wrong_key_is_asked_for_again_and_forgotten_with_the_tab(chromium: Page, served: tuple[FastAPI, str]) -> None:
    chromium.open(served[1])
    give_key(chromium, "a wrong one")
    chromium.until("!document.getElementById('refused').hidden")
    give_key(chromium, KEY)
    chromium.until("page.rows.length")
    assert chromium.value("Object.keys(localStorage).length + document.cookie.length") == 0


def test_two_models_answer_side_by_side_and_the_better_one_wins_a_vote(page: Page, served: tuple[FastAPI, str]) -> None:
    send(page, "How long does a refund take?", "teacher", "student")
    page.until("page.answers.length === 2 && page.answers.every(a => a.pieces > 1 && !a.whole)")  # both at once, live
    done(page)
    assert page.text(".said") == [SAID["teacher"], SAID["student"]]
    assert page.text("ins") == ["three"]
    assert page.text("del") == ["five", "until then"]
    figures = page.text(".answer.student dt")
    assert figures == ["First token", "Tokens/s", "Tokens", "Time", "Cost"]
    assert page.text(".answer.student dd")[2] == str(len(SAID["student"].split()))
    assert page.text(".answer.student dd")[4].endswith("EUR")
    assert page.text(".answer.teacher dt")[-1] == "Time"  # nothing was measured of it, so nothing is claimed
    page.click(".answer.student .vote")
    page.until("!document.getElementById('votes').hidden")
    assert page.text("#pairs th, #pairs td") == ["student over teacher", "", "100\u202f%21–100", "1"]
    asked = {request["model"]: request["messages"] for request in served[0].state.seen}
    assert [m["role"] for m in asked["teacher"]] == ["system", "user", "assistant", "user"]
    assert [m["role"] for m in asked["student"]] == ["user"]
    assert all((r["temperature"], r["max_tokens"]) == (0, 40) for r in served[0].state.seen)  # as evaluate asks


def test_hidden_names_stay_hidden_until_the_vote(page: Page, tmp_path: Path) -> None:
    page.click("#blind")
    send(page, "How long?", "teacher", "student")
    done(page)
    shown = page.value("document.querySelector('#answers').outerHTML")
    assert "teacher" not in shown
    assert "student" not in shown
    assert page.text(".figures") == ["", ""]
    assert "teacher" not in "".join(page.text("#below"))
    page.press("1")
    page.until("!document.getElementById('votes').hidden")
    assert sorted(page.text(".answer h2")) == ["student", "teacher"]
    assert page.text("#counted") == ["1 vote, 1 with hidden names"]
    (kept,) = (tmp_path / "votes" / "support").iterdir()
    vote = json.loads(kept.read_text())
    assert vote["preferred"] == page.text(".answer h2")[0]
    page.press("2")
    page.press("0")
    assert len(list(kept.parent.iterdir())) == 1  # one vote for one question


def test_what_a_model_says_is_text_and_nothing_else(page: Page) -> None:
    send(page, HOSTILE, "hostile-baseline", "teacher")
    done(page)
    page.press("0")
    assert HOSTILE in page.text(".said")
    assert page.value("document.querySelectorAll('#answers img, #answers script').length") == 0


def test_escape_stops_the_streams(page: Page) -> None:
    send(page, "endless", "teacher", "student")
    page.until("page.answers.length && page.answers.every(a => a.pieces > 3)")
    page.press("Escape")
    done(page)
    assert page.text(".answer .problem") == ["Stopped.", "Stopped."]
    assert page.value("[...document.querySelectorAll('.vote')].every(b => b.disabled)")


def test_errors_are_said_in_plain_words_and_the_other_answer_stays(page: Page) -> None:
    send(page, "busy", "teacher", "student")
    done(page)
    said = "Too many requests just now. 64 answers are being written. Try again in 7\u202fs."
    assert page.text(".answer.student .problem") == [said]
    assert page.text(".answer.teacher .said") == [SAID["teacher"]]
    send(page, "cut", "teacher")
    done(page)
    assert page.text(".answer .problem") == ["The answer broke off."]


def test_an_endpoint_that_is_gone_is_said(page: Page) -> None:
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.send("Network.emulateNetworkConditions", offline=True, **conditions)
    send(page, "Anyone?", "teacher")
    done(page)
    page.send("Network.emulateNetworkConditions", offline=False, **conditions)
    assert page.text(".answer .problem") == ["No connection to the endpoint. Is it still running?"]


def test_a_held_out_row_brings_its_reference_and_its_earlier_turns(page: Page, served: tuple[FastAPI, str]) -> None:
    page.value("$('rows').value = 0; $('rows').dispatchEvent(new Event('change'))")
    page.click("#send")
    done(page)
    assert page.text("#reference span") == ["Five working days."]
    page.value("$('against').value = REFERENCE; $('against').dispatchEvent(new Event('change'))")
    assert page.text(".answer.student ins")[0] == "A refund takes three"
    page.value("$('rows').value = 1; $('rows').dispatchEvent(new Event('change'))")
    assert page.text("#earlier li") == ["userHello", "assistantHello!"]
    page.click("#send")
    done(page)
    asked = next(r for r in reversed(served[0].state.seen) if r["model"] == "student")
    assert [m["content"] for m in asked["messages"]] == ["Hello", "Hello!", "Where is my card?"]


def test_it_can_be_used_without_seeing_it(page: Page) -> None:
    """Every control has a name, what is finished is announced once, and nothing is while it is written."""
    send(page, "How long?", "teacher", "student")
    page.until("page.answers.some(a => a.pieces > 1)")
    assert page.text("#told p") == []
    done(page)
    assert sorted(page.value("[...document.querySelectorAll('#told p')].map(p => p.textContent)")) == [
        f"student: {SAID['student']}",
        f"teacher: {SAID['teacher']}",
    ]
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    kinds = ("button", "checkbox", "textbox", "combobox", "spinbutton")
    controls = [n for n in tree if n.get("role", {}).get("value") in kinds]
    assert len(controls) >= 12
    assert [n for n in controls if not n["name"]["value"]] == []


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1280, True)])
def test_it_fits_a_phone_and_the_dark(
    width: int, dark: bool, page: Page, served: tuple[FastAPI, str], tmp_path: Path
) -> None:
    page.open(served[1], width=width, height=740, dark=dark)
    page.until("page.rows.length")
    send(page, "How long?", "teacher", "student")
    done(page)
    page.press("0")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    channels = page.value("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(channels) < 3 * 60) is dark
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_reader_who_wants_no_motion_sees_none(page: Page) -> None:
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    send(page, "endless", "teacher")
    page.until("page.answers.length && page.answers[0].pieces > 3")
    assert page.value("getComputedStyle(document.querySelector('.said'), '::after').animationName") == "none"
    page.press("Escape")
    done(page)
