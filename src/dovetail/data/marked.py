"""A conversation as token ids, each with whether it is learned; and where an answer ends."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dovetail.data.sample import Picture, Piece, Turn, Video
from dovetail.errors import UsageError
from dovetail.inputs.tokenizer import Tokenizer

# which answers of a conversation are learned
LEARN = ("all", "last")


class Marked(NamedTuple):
    """Token ids, one placeholder for each image, and which of them are learned. `has_end`: every answer that
    is learned ends with a token at which generation stops."""

    tokens: list[int]
    is_learned: list[bool]
    has_end: bool


def answers(turns: Sequence[Turn], learn: str) -> list[int]:
    """The numbers of the turns that are learned.

    Raises:
        UsageError: nobody answers, or there is nothing before an answer or in it.
    """
    found = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not found:
        raise UsageError(
            "nothing of this conversation is learned: it has no turn of the assistant",
            found=", ".join(turn.role for turn in turns) or "no turns",
            hint="leave it out, or correct the roles: human or user asks, gpt or assistant answers",
        )
    if found[0] == 0:
        raise UsageError(
            "the conversation begins with the assistant, so that nothing asks for its answer",
            hint="put a turn of the user before it, or leave it out",
        )
    chosen = found if learn == "all" else found[-1:]
    for i in chosen:
        if not turns[i].text.strip():
            raise UsageError(
                f"turn {i} is an empty answer: nothing but its end would be learned",
                hint="leave the turn out, or give it a text",
            )
    for i in found:
        if any(not isinstance(piece, str) for piece in turns[i].pieces):
            raise UsageError(
                f"turn {i} is an answer with an image, and no family here puts out images",
                hint="images belong to the turns of the user",
            )
    return chosen


def end_of_answer(ids: Sequence[int], tokenizer: Tokenizer, stop: frozenset[int]) -> tuple[int, bool]:
    """How many of the ids from the begin of an answer to that of the next turn are the answer and the token
    that ends it, and whether there is such a token. What a template puts behind the end is not learned."""
    added = tokenizer.added
    for ends in (stop, added):
        at = max((i for i, id in enumerate(ids) if id in ends), default=None)
        if at is not None and _is_blank((id for id in ids[at + 1 :] if id not in added), tokenizer):
            return at + 1, ids[at] in stop or not stop
    count = len(ids)
    while count and _is_blank(ids[count - 1 : count], tokenizer):
        count -= 1
    return count, False


def _is_blank(ids: Iterable[int], tokenizer: Tokenizer) -> bool:
    """Whether tokens write nothing but blanks."""
    return not tokenizer.written(list(ids)).strip()


def without_breaks(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces without the line break that manifests put between an image and a text, and without empty texts.

    `<image>\\nWhat is it?` is how LLaVA writes an image and a question; whether a break stands between
    them is said by the template, as when the model is asked.
    """
    found: list[Piece] = []
    for i, piece in enumerate(pieces):
        if not isinstance(piece, str):
            found.append(piece)
            continue
        is_behind = i > 0 and not isinstance(pieces[i - 1], str)
        is_before = i + 1 < len(pieces) and not isinstance(pieces[i + 1], str)
        text = piece.removeprefix("\n") if is_behind else piece
        text = text.removesuffix("\n") if is_before else text
        if text:
            found.append(text)
    return found


def num_seen(turns: Sequence[Turn]) -> tuple[int, int]:
    """How many images and how many videos there are."""
    pieces = [piece for turn in turns for piece in turn.pieces]
    return sum(isinstance(one, Picture) for one in pieces), sum(isinstance(one, Video) for one in pieces)
