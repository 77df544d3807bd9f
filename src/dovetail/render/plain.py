"""A page as plain text: for pipes, files and logs.

Names come from files that nobody vouches for; what would move the cursor is written as its escape.
"""

from dovetail.render.layout import lay_out
from dovetail.render.page import Page


def write_plain(page: Page) -> str:
    """The page as text, columns aligned, one line each."""
    return "".join(f"{line.text}\n" for line in lay_out(page))
