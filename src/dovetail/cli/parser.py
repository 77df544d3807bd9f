"""The options of one verb. What is wrong with them is a `UsageError` like any other."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from dovetail.errors import UsageError, suggestion


class Parser(argparse.ArgumentParser):
    """Reads the words behind a verb."""

    def __init__(self, verb: str, help: str, example: str) -> None:
        super().__init__(
            prog=f"dovetail {verb}",
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=_Formatter,
        )

    def parse_args(self, words: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """The options of a command.

        Raises:
            UsageError: one is unknown, missing or no value of its kind.
        """
        options, unknown = self.parse_known_args(words)
        if not unknown:
            return options
        from dovetail.store.open import shown_path

        odd = next((word for word in unknown if word.startswith("-")), None)
        if odd is None:
            self.error(f"`{shown_path(unknown[0])}` is one argument too many")
        option = odd.partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings if name[:2] == "--"]
        hint = suggestion(option, known, f"`{self.prog} --help` lists all")
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
    """Wraps the description and leaves the example as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return text
        return argparse.HelpFormatter._fill_text(self, text, width, indent)
