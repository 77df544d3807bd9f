"""Renders chat templates, as a program of its own: a template is a program that somebody else wrote.

    python -I -S renderer.py SECONDS BYTES FOLDER ...      folders are those of jinja2 and what it needs

Requests and answers are lines of JSON. The process that asks ends this one when a template takes too long
(`chat_template.py`); here memory and processor time are bounded, so that what a template fills is this
process only. Nothing of dovetail is imported: it starts in a fraction of the time.

Rendered as transformers renders: sandboxed, `trim_blocks`, `lstrip_blocks`, with `raise_exception`,
`strftime_now`, and the tag `generation`, which marks what an assistant said and prints it as it is.

Source: transformers@5.23.0 `utils/chat_template_utils.py`.
"""

import json
import sys
from typing import Any


def main(seconds: int, most: int, folders: list[str]) -> None:
    """Answers requests until there are no more."""
    _bound(most)
    sys.path.extend(folders)
    render = _Templates(_environment()).rendered
    for line in sys.stdin.buffer:
        _more_time(seconds)
        answer = _answered(render, json.loads(line), most)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _answered(render: Any, request: dict[str, Any], most: int) -> dict[str, Any]:
    """The texts of a template, or what was wrong."""
    texts = []
    length = 0
    for messages, is_asking in request["conversations"]:
        given = {**request["given"], "messages": messages, "add_generation_prompt": is_asking}
        try:
            text = render(request["source"], given)
            text.encode()  # halves of characters are no text
        except MemoryError:
            return {"kind": "MemoryError", "error": "it needs more memory than a text can"}
        except RecursionError:
            return {"kind": "RecursionError", "error": "it calls itself without end"}
        except Exception as error:  # noqa: BLE001 - whatever a template does, its caller is told
            return {"kind": type(error).__name__, "error": str(error)[:1000]}
        length += len(text)
        if length > most // 32:
            return {"kind": "OverflowError", "error": f"it makes a text of {length:,} characters"}
        texts.append(text)
    return {"texts": texts}


class _Templates:
    """The last template, which is most often the next one, compiled once."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._source: Any = None
        self._template: Any = None

    def rendered(self, source: Any, given: dict[str, Any]) -> str:
        if self._template is None or source != self._source:
            self._template = self._environment.from_string(source)
            self._source = source
        return str(self._template.render(**given))


def _bound(most: int) -> None:
    """No more memory than this."""
    try:
        import resource
    except ImportError:  # not on Windows; the time is bounded all the same
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _more_time(seconds: int) -> None:
    """Ends this process when it has worked so long on one request, should nobody be there to do it."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 2 * seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


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


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
