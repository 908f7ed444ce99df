"""A model's text told apart into answer, reasoning and tool calls, by vLLM's own parsers for each model family."""

import json
from dataclasses import dataclass
from typing import Any

from raystill.errors import RecipeError


@dataclass(frozen=True)
class Parts:
    """One answer. tool_calls is a JSON string, as `records.Message` holds it."""

    text: str
    reasoning: str | None = None
    tool_calls: str | None = None


class Parser:
    """Splits answers. Raises RecipeError for a parser that vLLM does not have, or that this tokenizer does not fit."""

    def __init__(self, tokenizer: Any, reasoning: str | None, tools: str | None) -> None:
        from vllm.reasoning import ReasoningParserManager
        from vllm.tool_parsers import ToolParserManager

        self.reasoning = _made(ReasoningParserManager.get_reasoning_parser, reasoning, tokenizer, "reasoning_parser")
        self.tools = _made(ToolParserManager.get_tool_parser, tools, tokenizer, "tool_parser")

    @property
    def needs_marks(self) -> bool:
        """Whether the text must still hold the special tokens that mark its parts."""
        return self.reasoning is not None or self.tools is not None

    def split(self, text: str, tools: str | None) -> Parts:
        """The parts of one answer, given the tools (JSON) that it was offered."""
        if self.reasoning is None and self.tools is None:
            return Parts(text.strip())
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        offered = json.loads(tools) if tools else None
        request = ChatCompletionRequest(model="", messages=[], tools=offered)
        thought, answer = None, text
        if self.reasoning is not None:
            thought, found = self.reasoning.extract_reasoning(text, request)
            answer = found or ""
        calls = None
        if self.tools is not None and offered:
            read = self.tools.extract_tool_calls(answer, request)
            if read.tools_called:
                calls = json.dumps([call.model_dump(mode="json", exclude_none=True) for call in read.tool_calls])
                answer = read.content or ""
        return Parts(answer.strip(), thought.strip() if thought else None, calls)


def _made(find: Any, name: str | None, tokenizer: Any, key: str) -> Any:
    if name is None:
        return None
    try:
        return find(name)(tokenizer)
    except KeyError as e:
        raise RecipeError(f"vLLM has no teacher.{key} '{name}'; {str(e.args[0])[:300]}") from e
    except (RuntimeError, ValueError) as e:
        raise RecipeError(
            f"teacher.{key} {name} does not fit this model's tokenizer: {e}; choose its family's own"
        ) from e
