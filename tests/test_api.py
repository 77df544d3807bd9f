"""What a user of the library can lean on: public names, their documentation, its examples."""

import ast
import doctest
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

import dovetail
from commands import python

SOURCE = Path(dovetail.__file__).parent
MODULES = sorted(
    f"{path.relative_to(SOURCE.parent).with_suffix('')}".replace("/", ".").removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.stem != "__main__"
)


def loaded(module: str) -> ModuleType:
    """The module; skips where it is made for an engine that is not installed here."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("dovetail"):
            raise
        pytest.skip(f"needs {error.name}")


# -- public names


def test_the_list_of_public_names_is_sorted_and_true() -> None:
    assert sorted(dovetail.__all__) == dovetail.__all__
    assert set(dovetail._HOMES) == set(dovetail.__all__)
    assert set(dir(dovetail)) == {*dovetail.__all__, "__version__"}
    for name, home in dovetail._HOMES.items():
        public = getattr(dovetail, name)
        assert public is getattr(import_module(home), name)
        assert public.__name__ == name
        assert public.__module__ == home


def test_a_verb_stays_a_verb_when_a_package_of_its_name_is_imported() -> None:
    """`import dovetail.families` would put the package in the place of the function."""
    script = "import dovetail, dovetail.families.text; dovetail.inspect; print(len(dovetail.families()) > 5)"
    assert python("-c", script).out == "True\n"


def test_type_checkers_see_the_same_names() -> None:
    """Names that are imported when asked for are imported at once for type checkers."""
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    guarded = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: statement.module
        for node in guarded
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == dovetail._HOMES


def test_a_star_import_gives_the_public_names_and_no_others() -> None:
    names: dict[str, object] = {}
    exec("from dovetail import *", names)
    assert names.keys() - {"__builtins__"} == set(dovetail.__all__)


def test_a_name_that_is_not_public_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"module 'dovetail' has no attribute 'Store'"):
        dovetail.Store  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_package() -> None:
    import tomllib
    from importlib.metadata import version

    written = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    assert dovetail.__version__ == version("dovetail-weights") == written


# -- documentation


def documented(module: str) -> Iterator[tuple[str, object]]:
    """The public functions and classes that a module defines, and their public methods."""
    for name, one in vars(loaded(module)).items():
        if name.startswith("_") or getattr(one, "__module__", None) != module:
            continue
        if inspect.isfunction(one) or inspect.isclass(one):
            yield f"{module}.{name}", one
        if inspect.isclass(one):
            for inner, member in vars(one).items():
                function = member.fget if isinstance(member, property) else member
                if not inner.startswith("_") and inspect.isfunction(function):
                    yield f"{module}.{name}.{inner}", function


def is_override(path: str) -> bool:
    """Whether the documentation stands at the abstract method that is overridden."""
    module, name, method = path.rsplit(".", 2)
    owner = getattr(import_module(module), name, None)
    return inspect.isclass(owner) and any(method in vars(base) for base in owner.__mro__[1:])


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module: str) -> None:
    bare = [path for path, one in documented(module) if not one.__doc__ and not is_override(path)]
    assert bare == []
    assert loaded(module).__doc__ or not Path(str(loaded(module).__file__)).read_text()


@pytest.mark.parametrize("name", dovetail.__all__)
def test_the_first_line_of_public_documentation_is_a_sentence(name: str) -> None:
    first = (inspect.getdoc(getattr(dovetail, name)) or "").splitlines()[0]
    assert first[0].isupper()
    assert first.endswith((".", ":", ";", ",")) or len(first) > 60
    assert not first.startswith("This ")


@pytest.mark.parametrize("name", [name for name in dovetail.__all__ if name[0].islower()])
def test_public_functions_say_what_they_raise_and_what_they_take(name: str) -> None:
    function = getattr(dovetail, name)
    parameters = list(inspect.signature(function).parameters.values())
    text = inspect.getdoc(function) or ""
    assert "Raises:" in text or name == "families"
    positional = [one.name for one in parameters if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(positional) <= 2, positional


# -- examples


def examples(module: str) -> list[doctest.DocTest]:
    """The documentation of a module that holds examples."""
    return [test for test in doctest.DocTestFinder().find(loaded(module), module) if test.examples]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_the_documentation_give_what_they_show(module: str) -> None:
    for test in examples(module):
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0, test.name


def test_there_are_examples() -> None:
    assert len(examples("dovetail.errors")) > 1


# -- the command


def test_the_package_runs_as_a_module_and_as_a_command() -> None:
    (command,) = [point for point in entry_points(group="console_scripts") if point.name == "dovetail"]
    from dovetail.cli import main

    assert command.load() is main
    answer = python("-m", "dovetail", "--version")
    assert answer == (0, f"dovetail {dovetail.__version__}\n", "")


def test_no_module_is_forgotten() -> None:
    """Every folder with Python files is a package that is shipped."""
    found = {
        module.name
        for module in pkgutil.walk_packages([str(SOURCE)], "dovetail.")
        if not module.name.endswith("__main__")
    }
    assert {"dovetail", *found} == set(MODULES)
