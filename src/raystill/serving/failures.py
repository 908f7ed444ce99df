"""What fails, as OpenAI's clients read it: one JSON form, a status that says whether to come again, and no insides.

A traceback, another user's text or the engine's words never leave: only a request's own mistakes are told in words.
"""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError, RayError
from ray.llm._internal.common.errors import VLLM_CLIENT_ERRORS
from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
from ray.serve.exceptions import RayServeException
from starlette.exceptions import HTTPException

from raystill.serving.guard import AWAY, RETRY_AFTER, form

KINDS = (HTTPException, OpenAIHTTPException, RequestValidationError, RayError, RayServeException, *VLLM_CLIENT_ERRORS)
"""What is expected to fail here. Anything else is answered too, and logged as the mistake of ours that it is."""


def in_openais_form(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed."""
    status, message, headers = said(error)
    if status in (429, 503):
        headers = {"Retry-After": RETRY_AFTER, **headers}
    return JSONResponse(form(status, message), status, headers)


def said(error: Exception) -> tuple[int, str, dict[str, str]]:
    """Status, words and headers for a failure."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), dict(error.headers or {})
    if isinstance(error, OpenAIHTTPException) and error.status_code < 500:
        return error.status_code, error.message, {}
    if isinstance(error, RequestValidationError):
        first: Any = error.errors()[0]
        return 400, f"{first['msg']} at {'.'.join(str(part) for part in first['loc'])}", {}
    if isinstance(error, VLLM_CLIENT_ERRORS) and not isinstance(error, RayError):  # one from afar has its traceback
        return 400, str(error), {}
    if isinstance(error, RayActorError):  # a replica has died, and another one starts by itself
        return 503, AWAY, {}
    return 500, "the model failed to answer; the server's log says more", {}
