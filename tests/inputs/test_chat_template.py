"""Chat templates are programs that others wrote: each failure inside is one error, in bounded time."""

import os
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from dovetail.errors import UsageError
from dovetail.inputs import chat_template
from dovetail.inputs.chat_template import ChatTemplate, TakesTextOnly

ROOT = Path(__file__).parents[2]
MESSAGES = [{"role": "user", "content": "hi"}]
MEMORY = "it needs more memory than a text can"
HOSTILE = {
    "{{ 'a' * 10**10 }}": MEMORY,
    "{{ '%1000000000d' | format(1) }}": MEMORY,
    "{{ '{0:1000000000}'.format(1) }}": MEMORY,
    "{% set x = namespace(a='abc') %}{% for i in range(60) %}{% set x.a = x.a ~ x.a %}{% endfor %}": MEMORY,
    "{{ 'a' * 20000000 }}": "it makes a text of 20,000,000 characters",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "it calls itself without end",
    "{{ " + "(" * 3000 + ")" * 3000 + " }}": "it calls itself without end",
    "{{ messages.append(1) }}": "is unsafe",
    "{{ [].__class__.__mro__ }}": "is unsafe",
    "{{ 1 // 0 }}": "by zero",
    "{{ a.b.c }}": "'a' is undefined",
    "{{ raise_exception('no') }}": "refuses the messages: no",
    "{% include 'other' %}": "no loader",
    "{% if %}": "Expected an expression",
    "{{ '\\ud800' }}": "surrogates not allowed",
    "{{ 10**5000 }}": "4300 digits",
    "{{ messages | map('none') | list }}": "No filter named 'none'",
    "{{ strftime_now(messages) }}": "strftime",
}


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:40])
def test_whatever_goes_wrong_inside_is_one_error(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        ChatTemplate(source, {}).render(MESSAGES)
    assert HOSTILE[source] in caught.value.message
    assert caught.value.hint == "--raw gives the model your text as it is"
    assert ChatTemplate("{{ messages[0].content }}", {}).render(MESSAGES) == "hi"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}"
        "{% endfor %}{% endfor %}",
        "{{ 7 ** 10000000000 }}",
    ],
)
def test_what_never_ends_is_ended(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    with pytest.raises(UsageError, match=r"the chat template is not done after 0\.5 seconds"):
        ChatTemplate(source, {}).render(MESSAGES)
    monkeypatch.undo()
    assert ChatTemplate("{{ messages[0].content }}", {}).render(MESSAGES) == "hi"


def test_a_process_that_is_killed_is_one_error_and_started_again() -> None:
    one = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})
    assert one.render(MESSAGES) == "<s>hi"
    process = chat_template._RENDERER._process
    assert process is not None
    process.kill()
    process.wait()
    assert one.render(MESSAGES) == "<s>hi"


def test_one_process_serves_many_threads() -> None:
    texts = [f"text {i} " * 2000 for i in range(16)]
    found: dict[str, str] = {}
    one = ChatTemplate("{{ messages[0].content }}", {})

    def ask(text: str) -> None:
        found[text] = one.render([{"role": "user", "content": text}])

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {text: text for text in texts}


def test_what_templates_may_use() -> None:
    source = (
        "{% for message in messages %}{% if loop.first %}{% generation %}{{ message.content }}{% endgeneration %}"
        "{% endif %}{% break %}{% endfor %} {{ {'ü': [1]} | tojson(indent=1) }} {{ strftime_now('%Y') }}\n"
        "    {% if tools is none and add_generation_prompt %}\nyes{% endif %}"
    )
    expected = f'hi {{\n "ü": [\n  1\n ]\n}} {datetime.now():%Y}\nyes'
    assert ChatTemplate(source, {}).render(MESSAGES) == expected


def test_a_template_of_texts_is_told_from_a_broken_one() -> None:
    pieces = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    with pytest.raises(TakesTextOnly):
        ChatTemplate("{{ 'a' + messages[0].content }}", {}).render(pieces)
    with pytest.raises(UsageError, match="a message is no JSON"):
        ChatTemplate("", {}).render([{"role": "user", "content": object()}])


def test_nothing_is_left_when_the_program_ends() -> None:
    """Also if it is killed: what renders sees that nobody asks any more."""
    script = (
        "import os, signal\nfrom dovetail.inputs import chat_template as c\n"
        "c.ChatTemplate('', {}).render([])\nprint(c._RENDERER._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=path
    )
    for _ in range(100):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{int(done.stdout)}/stat").read_text().split(") ")[1][0] == "Z":
            break
        threading.Event().wait(0.05)
    else:
        raise AssertionError("it still runs")
