"""A chat template: messages as the text that a model was taught to answer.

Rendered as transformers renders it: sandboxed, `trim_blocks`, `lstrip_blocks`, with `raise_exception`,
`strftime_now`, and the tag `generation`, which marks what an assistant said and prints it as it is.

Source: transformers@5.23.0 `utils/chat_template_utils.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.errors import UsageError

Message = Mapping[str, Any]


class ChatTemplate:
    """A template and the special tokens that it may name (`bos_token`)."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        self.source = source
        self._specials = specials

    def render(self, messages: Sequence[Message]) -> str:
        """The messages, up to where the model is to answer.

        Raises:
            UsageError: the template cannot be read, or it refuses the messages.
        """
        from jinja2 import TemplateError

        try:
            return str(
                _environment()
                .from_string(self.source)
                .render(
                    messages=messages,
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                    **self._specials,
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise UsageError(
                f"the chat template refuses the messages: {error}",
                hint="--raw gives the model your text as it is",
            ) from error


def _environment() -> Any:
    from datetime import datetime

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as jinja wants it

        def parse(self, parser: Any) -> nodes.Scope:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _tojson
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators)
