"""The options of one verb. What is wrong with them is a `UsageError` like any other."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from dovetail.errors import UsageError, suggestion
from dovetail.render.terminal import width_of

_PIPED = 80


class Parser(argparse.ArgumentParser):
    """Reads the words behind a verb. `spell` may turn them into its own words first."""

    def __init__(self, verb: str, help: str, example: str, *, add_help: bool = True) -> None:
        super().__init__(
            prog=f"dovetail {verb}",
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=_Formatter,
            add_help=add_help,
        )
        self._keeps_more = False
        self.spell: Callable[[Sequence[str]], Sequence[str]] = list

    def takes_more(self, said: str) -> None:
        """Keeps options that this parser does not know, as `more`: another one does."""
        self._keeps_more, self.allow_abbrev = True, False
        self.epilog = f"{said}\n\n{self.epilog}"

    @property
    def names(self) -> list[str]:
        """The options by their long names."""
        return [name for action in self._actions for name in action.option_strings if name[:2] == "--"]

    def parse_args(self, words: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """The options of a command.

        Raises:
            UsageError: one is unknown, missing or no value of its kind.
        """
        options, unknown = self.parse_known_args(self.spell(words))
        if self._keeps_more:
            options.more = unknown
        if not unknown or self._keeps_more:
            return options
        from dovetail.store.open import shown_path

        odd = next((word for word in unknown if word.startswith("-")), None)
        if odd is None:
            self.error(f"`{shown_path(unknown[0])}` is one argument too many")
        option = odd.partition("=")[0]
        hint = suggestion(option, self.names, f"`{self.prog} --help` lists all")
        raise UsageError(f"there is no option `{option}`", usage=self._usage(), hint=hint)

    def error(self, message: str) -> NoReturn:
        """Refuses what argparse does not understand.

        Raises:
            UsageError: always.
        """
        hint = f"`{self.prog} --help` says what may be given"
        raise UsageError(message, usage=self._usage(), hint=hint)

    def _usage(self) -> str:
        """The words that must be there: `dovetail convert CKPT OUT …`."""
        needed = [one for one in self._actions if one.required or not one.option_strings]
        words = [" ".join([*one.option_strings[-1:], str(one.metavar or "")]).strip() for one in needed]
        return " ".join([self.prog, *words, "…"])


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Wraps the description and leaves the example as it is.

    It is made for every option that is added; argparse's own would import shutil to ask for the width.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=(width_of(sys.stdout) or _PIPED) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        before, example, rest = text.partition("example:\n")
        filled = argparse.HelpFormatter._fill_text(self, before, width, indent) if before.strip() else ""
        return "\n\n".join(one for one in (filled, f"{example}{rest}") if one)
