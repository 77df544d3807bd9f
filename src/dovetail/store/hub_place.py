"""What people give for a repository of the hub: the address of its page, or its folder in the cache."""

import os
import re

from dovetail.errors import MissingError, UsageError, listed

_HUB = r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?"
_PAGE = (
    _HUB + r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)"
    r"(?:/(?:tree|blob)/(?P<revision>refs/pr/[0-9]+|[^/?#]+)(?:/(?P<path>[^?#]*))?)?/?(?:[?#].*)?"
)
_NO_MODEL = _HUB + r"(?:datasets|spaces)/.*"
_CACHED = "models--"


def meant(text: str) -> str:
    """What a pasted address of the hub or a folder of its cache stands for; anything else as it is.

    >>> meant("https://huggingface.co/Qwen/Qwen2-VL-2B/tree/main")
    'hf://Qwen/Qwen2-VL-2B@main'

    Raises:
        MissingError: a repository in the cache has no snapshot.
        UsageError: it is a page of a data set, or a cache of several models or snapshots.
    """
    if "://" not in text and os.path.exists(text):
        return _snapshot(text) if os.path.isdir(text) else text
    if re.fullmatch(_NO_MODEL, text):
        raise UsageError(
            f"`{text}` is no page of a model", hint="give the page of a model, or hf://owner/name"
        )
    page = re.fullmatch(_PAGE, text)
    if page is None:
        return text
    from urllib.parse import unquote  # nothing that lies on a disk needs it

    revision = f"@{unquote(page['revision'])}" if page["revision"] else ""
    path = f"/{unquote(page['path']).rstrip('/')}" if page["path"] else ""
    return f"hf://{page['owner']}/{page['name']}{revision}{path}"


def _snapshot(path: str) -> str:
    """The folder itself or, if it is one of the cache, the snapshot in it."""
    name = os.path.basename(os.path.abspath(path))
    if name == "snapshots" and os.path.basename(os.path.dirname(os.path.abspath(path))).startswith(_CACHED):
        return _snapshot(os.path.dirname(os.path.abspath(path)))
    snapshots = os.path.join(path, "snapshots")
    if not name.startswith(_CACHED) or not os.path.isdir(os.path.join(path, "blobs")):
        return _of_one_model(path)
    found = sorted(os.listdir(snapshots)) if os.path.isdir(snapshots) else []
    main = _read_ref(os.path.join(path, "refs", "main"))
    chosen = [main] if main in found else found
    if not chosen:
        repo = "/".join(name.removeprefix(_CACHED).split("--", 1))
        raise MissingError(
            "this folder of the hub's cache has no snapshot: nothing was downloaded to its end",
            folder=path,
            hint=f"give hf://{repo}, or run `hf download {repo}`",
        )
    if len(chosen) > 1:
        raise UsageError(
            f"this folder of the hub's cache has {len(chosen)} snapshots",
            folder=path,
            found=listed(chosen, 4),
            hint=f"give one of them: {os.path.join(snapshots, chosen[0])}",
        )
    return os.path.join(snapshots, chosen[0])


def _of_one_model(path: str) -> str:
    """The folder itself; the cache as a whole is refused, with the models that it has."""
    if not os.access(path, os.R_OK | os.X_OK):
        return path
    names = sorted(name for name in os.listdir(path) if name.startswith(_CACHED))
    if not names:
        return path
    repos = ["hf://" + "/".join(name.removeprefix(_CACHED).split("--", 1)) for name in names]
    raise UsageError(
        "this is the hub's cache, not a model",
        folder=path,
        found=listed(repos, 6),
        hint=f"give one: {repos[0]}",
    )


def _read_ref(path: str) -> str:
    """The commit that a branch of the cache stands for."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, ValueError):
        return ""
