"""How a family is asked where no chat template says it."""

from typing import Literal, NamedTuple


class Prompt(NamedTuple):
    """The text around a prompt, and the tokens before it.

    `frame` is the text with `{prompt}` in it, and `{state}` where the state of a robot is written in the
    text. `frames` are frames for models that one of the config keys `frames_by` names, as pairs of a
    pattern (as file names have them) and a frame; a name that fits no pattern is asked in a way that nobody
    declared, and no name at all means `frame`.
    `later` says how a frame goes on: pairs of a frame and what is put around the prompts of later turns. A
    frame that stands in no pair has one turn.
    `tail` comes behind the frame and is cut into tokens by itself.
    `begin`: `specials` are the special tokens that the tokenizer puts around a text, `bos` is its first
    token alone, behind the images.
    `clean` is done to the prompt first: `strip` takes the blanks off its ends, `one_line` also makes blanks
    of underscores and line breaks.
    `has_image_tokens`: a token stands for every image. Where not, the model finds the place by itself.
    `max_tokens` is for how many tokens the model was made, None if for any number.
    """

    frame: str = "{prompt}"
    frames: tuple[tuple[str, str], ...] = ()
    frames_by: tuple[str, ...] = ()
    later: tuple[tuple[str, str], ...] = ()
    tail: str = ""
    begin: Literal["specials", "bos"] = "specials"
    clean: Literal["nothing", "strip", "one_line"] = "nothing"
    has_image_tokens: bool = True
    max_tokens: int | None = None


PLAIN = Prompt()
