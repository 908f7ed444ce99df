"""schemathesis over our OpenAPI document: whatever comes, no request is the server's mistake.

The application is ours with its guard, routes and request models; behind the routes are scripted engines instead of Ray.
"""

import contextlib
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow
KEY = "sk-openapi-0123456789"
ARGS = {
    "models": [{"name": "student"}],
    "max_ongoing": 4,
    "max_queued": 4,
    "max_body_bytes": 1 << 20,
    "max_tokens": 64,
    "timeout_s": 10.0,
    "keys_file": None,
    "allow_origins": [],
    "key": KEY,
}
CASES = 150
"""Of each route and mode."""


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our FastAPI application outside of Ray Serve."""
    from ray import serve
    from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
    from served_engines import Scripted

    from raystill.serving import app

    made = app._fastapi(ARGS, [])
    make_fastapi_ingress(OpenAiIngress, endpoint_map=app.ROUTES, app=made)
    engine = Scripted(SimpleNamespace(model_id="student"))
    handle = SimpleNamespace(
        options=lambda **_: handle,
        chat=SimpleNamespace(remote=engine.chat),
        completions=SimpleNamespace(remote=engine.completions),
    )
    card = ModelCard(id="student", object="model", owned_by="raystill", permission=[], metadata={})
    ingress = OpenAiIngress({"student": handle}, {"student": card})
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=ingress))
    return made


def test_no_request_of_any_kind_is_the_servers_mistake(application: Any) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode

    document = schemathesis.openapi.from_dict(application.openapi())
    document.app = application
    seen: Counter[tuple[str, int]] = Counter()

    def check(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {KEY}"})
        seen[case.operation.label, answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            error = json.loads(answer.text)["error"]
            assert set(error) == {"message", "type", "code", "param"}
            assert "Traceback" not in error["message"]

    some = settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for found in document.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            with contextlib.suppress(Unsatisfiable):  # a route without parameters cannot be asked wrongly
                some(given(case=operation.as_strategy(generation_mode=mode))(check))()
    print(f"schemathesis: {sum(seen.values())} requests, {dict(sorted(seen.items()))}")  # noqa: T201
    assert {route for route, _ in seen} >= {"POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models"}
    assert seen["POST /v1/chat/completions", 200] and seen["POST /v1/chat/completions", 400]
