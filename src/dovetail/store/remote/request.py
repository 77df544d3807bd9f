"""One request to a web server: made with huggingface_hub's client, tried again, its failures explained.

Redirects are followed here, one after the other, because the client reads the body of each to its end.

The client is the one that huggingface_hub uses itself (httpx up to 1.x, httpx2 since), so that proxies,
certificates, timeouts and offline mode follow the same settings. It drops the authorization header
when a redirect leads to another origin.

What the hub's `X-Error-Code` means: huggingface_hub 2.4 `utils/_http.py:hf_raise_for_status`.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from time import sleep
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dovetail.errors import DovetailError, MissingError, RemoteError, UsageError
from dovetail.store.remote.deadline import OutOfTime, Waiter, note_connection, within

DELAYS = (0.5, 1.0, 2.0)  # seconds before the second, third and fourth attempt
LONGEST = 60.0  # seconds that one operation may take with all its attempts, plus its bytes at the least speed
_LEAST_SPEED = 64 << 10  # bytes a second
_MAX_REDIRECTS = 20
# The body of a redirect is read up to here, so that the connection can be used again.
_SHORT = 4096
MAX_SIZE = 1 << 60

_Result = TypeVar("_Result")

_LOGIN = "set HF_TOKEN or run `hf auth login`"
_BY_CODE: dict[str, tuple[type[DovetailError], str, str]] = {
    "RepoNotFound": (
        MissingError,
        "the hub has no such repository, or it is private",
        f"check the spelling of owner/name; for a private repository {_LOGIN}",
    ),
    "RevisionNotFound": (
        MissingError,
        "the repository has no such revision",
        "name a branch, a tag or a commit of the repository: hf://owner/name@revision",
    ),
    "EntryNotFound": (
        MissingError,
        "the repository has no such file at this revision",
        "check the spelling of the path",
    ),
    "GatedRepo": (
        RemoteError,
        "the repository is gated, and this account has no access to it",
        f"ask for access on the repository's page, then {_LOGIN}",
    ),
}
_BY_STATUS: dict[int, tuple[type[DovetailError], str, str]] = {
    401: (
        RemoteError,
        "the server wants a login, or does not accept the one given",
        f"for the hub {_LOGIN}; elsewhere write https://user:password@host/path",
    ),
    403: (
        RemoteError,
        "the server refuses access",
        "check that this account may read the file, and that a signed address has not expired",
    ),
    404: (MissingError, "there is no such file on the server", "check the spelling of the address"),
    410: (MissingError, "the file is no longer on the server", "ask its owner where it went"),
    416: (
        RemoteError,
        "the server does not have the bytes asked for",
        "the file may have changed while it was read; run the command again",
    ),
    429: (
        RemoteError,
        "the server limits how often it may be asked",
        "wait {wait} and run the command again",
    ),
}
# By the name of an exception's class or of one it came from, because there are two HTTP libraries.
_BY_TROUBLE = (
    ("OfflineModeIsEnabled", "offline mode is on", "unset HF_HUB_OFFLINE to reach the server"),
    (
        "SSLError",
        "a TLS connection to the server cannot be set up",
        "behind a proxy with certificates of its own set SSL_CERT_FILE to its bundle",
    ),
    ("ProxyError", "the proxy does not let the request through", "check HTTPS_PROXY and NO_PROXY"),
    ("gaierror", "the host name is not known", "check its spelling and the network"),
    (
        "TimeoutException",
        "the server does not answer in time",
        "try again, or allow more seconds with HF_HUB_DOWNLOAD_TIMEOUT",
    ),
    ("ConnectError", "the server cannot be reached", "check the address, the network and the proxy settings"),
    (
        "OutOfTime",
        "the server does not finish in time",
        "try again, or download the file and give dovetail the local copy",
    ),
    ("TooManyRedirects", "the server redirects in circles", "check the address"),
    ("UnsupportedProtocol", "the server redirects to something other than http", "check the address"),
    ("InvalidURL", "the address is not a valid URL", "check the address"),
    ("UnicodeError", "the host of the address is no domain name", "check the address"),  # what idna raises
    (
        "Exception",
        "the connection to the server breaks off",
        "try again later, or download the file and give dovetail the local copy",
    ),
)
_PASSING = {"ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "RemoteProtocolError"}


@contextmanager
def request(method: str, url: str, headers: dict[str, str]) -> Iterator[Any]:
    """The answer to one request, its body unread; a server's failure (5xx) is raised.

    To be used inside `patiently`, which knows what to do about the client's exceptions.
    """
    from huggingface_hub import constants, get_session

    client, limit = get_session(), constants.HF_HUB_DOWNLOAD_TIMEOUT
    step = client.build_request(
        method, url, headers=headers, timeout=limit, extensions={"trace": note_connection}
    )
    history: list[Any] = []
    while True:
        answer = client.send(step, stream=True, follow_redirects=False)
        try:
            if not answer.has_redirect_location:
                answer.history = history
                if _is_failure(answer.status_code):
                    answer.raise_for_status()
                yield answer
                return
            step = _next_step(answer, history)
        finally:
            answer.close()


def _next_step(answer: Any, history: list[Any]) -> Any:
    """The request that a redirect leads to; `history` gets the redirect."""
    library = http_library()
    history.append(answer)
    if len(history) > _MAX_REDIRECTS:
        raise library.TooManyRedirects("Exceeded maximum allowed redirects.", request=answer.request)
    if answer.next_request is None:
        raise library.UnsupportedProtocol("the redirect leads to no address", request=answer.request)
    if (count_of(answer.headers.get("content-length", "")) or _SHORT) < _SHORT:
        for _ in answer.iter_raw():
            pass
    return answer.next_request


def body(answer: Any, limit: int) -> bytes:
    """The body of an answer that should be short.

    Raises:
        RemoteError: it is longer than `limit` bytes.
    """
    parts: list[bytes] = []
    count = 0
    for part in answer.iter_raw():
        parts.append(part)
        count += len(part)
        if count > limit:
            url = shown_url(str(answer.url))
            raise RemoteError(
                "the answer is too long",
                url=url,
                expected=f"at most {limit:,} bytes",
                hint="this is no file of a checkpoint; look at the address in a browser",
            )
    return b"".join(parts)


def count_of(said: object) -> int | None:
    """The number of bytes that a server writes, as digits or in JSON; None for anything else."""
    if isinstance(said, str) and said.isascii() and said.isdecimal() and len(said) <= 19:
        said = int(said)
    return said if type(said) is int and 0 <= said < MAX_SIZE else None


def patiently(ask: Callable[[], _Result], size: int = 0, /, **where: str) -> _Result:
    """What `ask` gives; passing troubles are tried again, all others become errors of ours.

    All attempts together have `LONGEST` seconds, and more for a body of `size` bytes.

    Raises:
        MissingError: the server says that there is no such thing.
        RemoteError: it cannot be reached, refuses, fails every time, or does not finish.
    """
    return in_time(lambda waiter: _again(ask, waiter, where), size, **where)


def in_time(work: Callable[[Waiter], _Result], size: int = 0, /, **where: str) -> _Result:
    """What the work gives, which moves `size` bytes and has `LONGEST` seconds more than they take.

    Raises:
        RemoteError: it does not end within its time.
    """
    from huggingface_hub import constants

    limit = LONGEST + max(0, constants.HF_HUB_DOWNLOAD_TIMEOUT - 10) * (len(DELAYS) + 1)
    try:
        return within(limit + size / _LEAST_SPEED, work)
    except OutOfTime as error:
        raise translated(error, **where) from error


@contextmanager
def watched(waiter: Waiter) -> Iterator[None]:
    """Requests that huggingface_hub makes by itself in this thread: hung up on once nobody waits for them."""
    from huggingface_hub import get_session

    hooks, thread = get_session().event_hooks["request"], get_ident()

    def watch(request: Any) -> None:
        if get_ident() != thread:
            return
        if waiter.has_left:
            raise OutOfTime("nobody waits for the answer")
        request.extensions["trace"] = note_connection

    hooks.append(watch)
    try:
        yield
    finally:
        hooks.remove(watch)


def _again(ask: Callable[[], _Result], waiter: Waiter, where: dict[str, str]) -> _Result:
    from huggingface_hub.errors import OfflineModeIsEnabled

    http = http_library()
    delays = iter(DELAYS)
    while True:
        try:
            return ask()
        except (http.HTTPError, http.InvalidURL, OfflineModeIsEnabled, UnicodeError) as error:
            delay = next(delays, None) if _is_passing(error) and not waiter.has_left else None
            if delay is None:
                raise translated(error, **where) from error
        sleep(delay)


def translated(error: BaseException, **where: str) -> DovetailError:
    """The error of ours for one of the HTTP client or of huggingface_hub."""
    response = getattr(error, "response", None)
    if response is not None:
        return refused(response, **where)
    chain = list(_chain(error))
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    message, hint = next((message, hint) for name, message, hint in _BY_TROUBLE if name in names)
    if "OfflineModeIsEnabled" in names:  # its text repeats the address, with what is secret in it
        return RemoteError(message, **where, hint=hint)
    reason = next((line for link in reversed(chain) if (line := str(link).strip())), type(error).__name__)
    return RemoteError(message, **where, reason=reason.splitlines()[0], hint=hint)


def refused(answer: Any, **where: str) -> DovetailError:
    """The error for an answer other than the one hoped for: its kind says what to do next."""
    status = answer.status_code
    code = answer.headers.get("x-error-code", "")
    odd = (RemoteError, "the server answers something unexpected", "check the address")
    kind, message, hint = _BY_CODE.get(code) or _BY_STATUS.get(status) or odd
    if _is_failure(status):
        kind, message, hint = RemoteError, f"the server failed {len(DELAYS) + 1} times", "try again later"
    said = answer.headers.get("x-error-message")
    return kind(
        message,
        **where,
        answer=f"{status} {answer.reason_phrase}".strip(),
        server=said[:300] if said else None,
        hint=hint.format(wait=_wait(answer)),
    )


def check_url(url: str) -> None:
    """Refuses what is not an `http://` or `https://` address.

    Raises:
        UsageError: it is not one.
    """
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        hint = "write http://host/path or https://host/path"
        raise UsageError(f"`{shown_url(url)}` is not the address of a web server", hint=hint)


def shown_url(url: str) -> str:
    """The address as it may be shown: without password, query and fragment, which can be secrets.

    >>> shown_url("https://me:secret@host/model.safetensors?signature=123")
    'https://host/model.safetensors'
    """
    bare = url.partition("#")[0].partition("?")[0]
    scheme, separator, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path


def login_headers(url: str) -> dict[str, str]:
    """The hub's token and user agent for an address of the hub, no token for other servers.

    Raises:
        UsageError: the token set on this machine cannot be one.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported lazily

    if not url.startswith(constants.ENDPOINT + "/"):
        return {"user-agent": "dovetail"}
    headers = dict(build_hf_headers(library_name="dovetail"))
    token = headers.get("authorization", "")
    if not (token.isascii() and token.isprintable()):  # never shown: most of it may be right
        raise UsageError("the token for the hub holds characters that no token has", hint=_LOGIN)
    return headers


def http_library() -> Any:
    """The HTTP library under huggingface_hub: httpx up to 1.x, httpx2 since 2.0."""
    from huggingface_hub.errors import HfHubHTTPError

    base = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    return sys.modules[base.__module__.partition(".")[0]]


def _is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later."""
    response = getattr(error, "response", None)
    if response is not None:
        return _is_failure(response.status_code)
    chain = list(_chain(error))
    is_reset = any(isinstance(link, ConnectionResetError) for link in chain)
    return is_reset or bool({type(link).__name__ for link in chain} & _PASSING)


def _is_failure(status: int) -> bool:
    """Whether the server failed; 501 is a refusal, of HEAD for example."""
    return status >= 500 and status != 501


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _wait(answer: Any) -> str:
    """How long the server asks to wait, from Retry-After or the draft RateLimit header."""
    after = answer.headers.get("retry-after", "")
    match = re.search(r"\bt=(\d+)", answer.headers.get("ratelimit", ""))
    seconds = after if after.isdecimal() else match.group(1) if match else ""
    return f"{seconds[:9]} s" if seconds else "a few minutes"
