"""What a declaration names and does not import: a class or a value, as "package.module:Name".

A family says this way which class runs it. The core stays light: nothing is imported before it is used.
"""

import re
from importlib import import_module
from typing import Any

from dovetail.errors import DeclarationError

_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Whether a text has the form of a reference.

    >>> is_reference("dovetail.models.text:TextModel"), is_reference("dovetail.models.text.TextModel")
    (True, False)
    """
    return _FORM.fullmatch(text) is not None


def referenced(text: str) -> Any:
    """What a reference names; its module is imported.

    >>> referenced("math:pi")
    3.141592653589793

    Raises:
        DeclarationError: it has another form, or there is no such module or no such name in it.
    """
    if not is_reference(text):
        raise DeclarationError(f"`{text}` is no reference", expected="package.module:Name")
    module, _, name = text.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a package that the module itself needs is not installed
        raise DeclarationError(f"there is no module `{error.name}`", reference=text) from None
    except AttributeError:
        raise DeclarationError(f"module `{module}` has no `{name}`", reference=text) from None
