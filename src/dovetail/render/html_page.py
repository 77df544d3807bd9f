"""What all HTML pages share: one file each that needs nothing else, no network and no fonts.

A page says what it says on a phone, on paper, in the dark, without a stylesheet and without its script.
Names come from files that nobody vouches for; `html_elements` escapes them, and the page's own policy
allows no script but the one that is named by its hash.
"""

import errno
import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

import dovetail
from dovetail.errors import WriteError
from dovetail.render.html_elements import Html, breakable, definitions, element
from dovetail.render.json_text import json_text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page_place(place: str, page: str) -> tuple[str, str, str]:
    """The folder, the page and the JSON beside it: of a folder that is to get `page`, or of a named page."""
    folder, file = os.path.split(place) if place.endswith(".html") else (place, page)
    return folder or ".", file, f"{file.removesuffix('.html')}.json"


def write_pages(contents: Mapping[str, Any], directory: str) -> list[str]:
    """Writes texts, and other values as JSON, into a folder; makes it if need be and gives all paths.

    Raises:
        WriteError: the folder or a file in it cannot be written; whatever was there is unchanged.
    """
    paths = {
        os.path.join(directory, file): value if isinstance(value, str) else json_text(value)
        for file, value in contents.items()
    }
    partial = {path: f"{path}.{os.getpid()}.partial" for path in paths}
    is_new = not os.path.exists(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        for path, text in paths.items():
            _write(partial[path], text)
            if os.path.isdir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        for path, temporary in partial.items():
            os.replace(temporary, path)
    except BaseException as error:
        _clear(directory if is_new else None, partial.values())
        if not isinstance(error, OSError):
            raise
        raise _refusal(error, directory) from error
    return list(paths)


def _write(path: str, text: str) -> None:
    # A lone surrogate of a hostile name becomes `\udc80`, which is how JSON writes it.
    with open(path, "wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def _clear(directory: str | None, temporaries: Iterable[str]) -> None:
    for temporary in temporaries:
        with suppress(OSError):
            os.remove(temporary)
    if directory is not None:
        with suppress(OSError):
            os.rmdir(directory)


def _refusal(error: OSError, directory: str) -> WriteError:
    reason = (error.strerror or type(error).__name__).lower()
    if os.path.exists(directory) and not os.path.isdir(directory):
        reason = "it is a file"
    return WriteError(
        f"cannot write the report into `{directory}`: {reason}",
        file=error.filename if reason == "is a directory" else None,
        hint="no file was changed; give a folder that you may write to, or one that can be made",
    )


class Section(NamedTuple):
    """One section of the page; the word is its entry in the contents."""

    id: str
    word: str
    title: str
    body: Html


class Foot(NamedTuple):
    """What stands below a page: the command that made it, the file with the same as data, and more rows."""

    command: str
    data: str
    rows: Sequence[tuple[str, str]] = ()
    date: str | None = None

    def written(self) -> Html:
        """The rows, with the version and the date: now, if none is given."""
        date = self.date or f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        said = element("span", element("code", self.data), " beside this page has all of it, unabridged")
        rows: list[tuple[str, str]] = [
            ("dovetail", dovetail.__version__),
            ("date", date),
            *self.rows,
            ("again", element("code", breakable(self.command), class_="copy")),
            ("as data", said),
        ]
        return definitions(rows, "made")


def framed(title: str, top: Html, sections: Iterable[Section], foot: Foot, *, script: str = "") -> str:
    """A whole page: contents, what stands above, the sections that have something to say, the foot."""
    said = [section for section in sections if section.body]
    links = (element("li", element("a", one.word, href=f"#{one.id}")) for one in said)
    brand = element("p", "dovetail", class_="brand")
    nav = element("nav", brand, element("ul", *links), aria_label="Contents")
    parts = (element("section", element("h2", one.title), one.body, id=one.id) for one in said)
    pieces = [nav, element("main", top, *parts), element("footer", foot.written())]
    if script:
        pieces.append(element("script", Html(script)))
    body = element("body", *pieces)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(resource("html.css"))),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def resource(name: str) -> str:
    """A text that lies beside the code."""
    return files("dovetail.render").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    if not script:
        return _POLICY
    return f"{_POLICY}; script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def verdict(word: str, kind: str, *said: str) -> Html:
    """The verdict: one word, the sentence behind it, and lines below."""
    first, *others = said or ("",)
    lines = [element("p", element("strong", word), " ", element("span", first), class_="word")]
    return element(
        "div", *lines, *(element("p", line, class_="soft") for line in others), class_=f"verdict {kind}"
    )
