"""The documentation against the code: findings, links, command lines, generated pages, printed output."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from doctest import DocTestParser, DocTestRunner
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from commands import on_path
from dovetail.cli import VERBS
from dovetail.cli.parser import Parser
from hubserver import HubServer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md")) + [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Codes that are put together in the code: what stands there, and what it can become.
COMPUTED = {"f'{found.side}-conflict'": ("config-conflict", "stamp-conflict", "set-conflict")}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


# -- findings


def findings_in_source() -> dict[str, set[str]]:
    """The severities that each finding code has in src."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                words = {keyword.arg: keyword.value for keyword in node.keywords}
                code, severity = words["code"], words["severity"]
                assert isinstance(severity, ast.Constant)
                for one in codes(code):
                    found.setdefault(one, set()).add(severity.value)
    return found


def codes(node: ast.expr) -> Iterator[str]:
    """What an expression for a code can give."""
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*codes(node.body), *codes(node.orelse))
    else:
        yield from COMPUTED[ast.unparse(node)]


def findings_on_page() -> dict[str, set[str]]:
    """The severities that docs/reference/findings.md gives each code."""
    text = (DOCS / "reference" / "findings.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\S+)\n\n\*(.+?)\*", text, re.MULTILINE)
    assert len(sections) == len(re.findall(r"^### ", text, re.MULTILINE))
    return {code: set(re.findall(r"error|warning|note", severities)) for code, severities in sections}


def test_every_finding_has_an_entry_and_every_entry_a_finding() -> None:
    assert findings_on_page() == findings_in_source()


def test_computed_codes_are_understood() -> None:
    node = ast.parse('"a" if b else f"{found.side}-conflict"', mode="eval").body
    assert list(codes(node)) == ["a", "config-conflict", "stamp-conflict", "set-conflict"]


# -- links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if "://" not in link and not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists() or not anchor:
        return target.exists()
    return anchor in map(slug, _HEADING.findall(target.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# A b\n[x](a.md) [x](#a-b) [x](b.md) [x](a.md#c) [x](https://example.org/)\n")
    assert broken_links(page) == ["b.md", "a.md#c"]


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / link).resolve() for link in _LINK.findall(index.read_text(encoding="utf-8"))}
    pages = {path for path in DOCS.rglob("*.md") if "example_family" not in path.parts}
    assert pages - linked == {index}


# -- command lines


def wrong_commands(page: Path) -> list[str]:
    """The command lines in fenced blocks that name a verb or an option that does not exist."""
    wrong = []
    for _, body in _FENCE.findall(page.read_text(encoding="utf-8")):
        for line in body.replace("\\\n", " ").splitlines():
            bare = line.removeprefix("$ ").strip()
            if bare.startswith("dovetail ") and not is_command(bare):
                wrong.append(bare)
    return wrong


def is_command(line: str) -> bool:
    """Whether the verb and all options exist."""
    words = shlex.split(re.split(r" [|>#&] ?", line)[0].replace("[", " ").replace("]", " "), comments=True)
    if words[1] in ("-h", "--help", "--version", "VERB"):
        return True
    if words[1] not in VERBS:
        return False
    parser = Parser(words[1], "help", "example")
    import_module(f"dovetail.cli.{words[1]}").configure(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    unknown = [word for word in words[2:] if word.startswith("-") and word.partition("=")[0] not in known]
    if unknown and words[1] == "train":
        from transformers import TrainingArguments

        return all(word[2:].partition("=")[0] in TrainingArguments.__dataclass_fields__ for word in unknown)
    return not unknown


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_command_lines_name_verbs_and_options_that_exist(page: Path) -> None:
    assert wrong_commands(page) == []


def test_a_wrong_command_line_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "```\n$ dovetail inspect x --json\ndovetail look x\n$ dovetail inspect --values x | head -3\n"
        "$ dovetail validate --as=siglip x\ndovetail make [--seed N] FAMILY OUT\n```\n"
    )
    assert wrong_commands(page) == ["dovetail look x", "dovetail inspect --values x | head -3"]


# -- generated pages


@pytest.mark.parametrize("name", ["families", "cli"])
def test_a_generated_page_is_current(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / f"{name}_page.py"))
    committed = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert committed == script["page"](), f"run scripts/{name}_page.py"


def test_the_table_of_families_is_current() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "families_page.py"))
    assert script["table"]() in (ROOT / "README.md").read_text(encoding="utf-8"), (
        "run scripts/families_page.py"
    )


def test_lines_of_the_readme_are_at_most_120_columns_long() -> None:
    """In what is read first. Tables and what commands print are as long as they are."""
    lines = _FENCE.sub("", (ROOT / "README.md").read_text(encoding="utf-8")).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


# -- printed output

# What pages call the hub and a web server; here both are one server on this machine.
REPOSITORY, WEB = "Qwen/Qwen2-VL-2B-Instruct", "https://example.org/models"


class Example(NamedTuple):
    """A command of a page, and what the page shows that it prints."""

    command: str
    output: str


def examples(page: Path) -> list[Example]:
    """The `$ …` lines of the blocks marked `console`, each with the lines that follow it."""
    found = []
    for language, body in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            pieces = re.split(r"^\$ ", body.replace("\\\n", ""), flags=re.MULTILINE)
            found += [Example(*piece.partition("\n")[::2]) for piece in pieces if piece]
    return found


def is_shown(shown: str, printed: str) -> bool:
    """Whether the text is what was printed, `…` standing for anything; columns may be wider or narrower."""
    shown, printed = (re.sub(" +", " ", text.strip()) for text in (shown, printed))
    pattern = ".*".join(map(re.escape, shown.split("…")))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


WITH_EXAMPLES = [page for page in PAGES if examples(page)]


def installed_example(site: Path) -> Path:
    """A folder for PYTHONPATH in which the package of the guide to families is installed."""
    source = DOCS / "guides" / "example_family"
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
        for group, values in project["entry-points"].items()
    )
    (about / "entry_points.txt").write_text(points)
    shutil.copytree(source / "peephole", site / "peephole")
    return site


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_output_shown_is_what_is_printed(page: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    work = tmp_path / "www"
    work.mkdir()
    path, paths = on_path(tmp_path / "bin"), []
    if page.name == "family.md":  # for PYTHONPATH, a command needs a process that is started with it
        paths = [str(installed_example(tmp_path / "site"))]
        path = path.partition(os.pathsep)[2]
    with HubServer(work) as hub:
        hub.add(REPOSITORY, "Qwen2-VL-2B")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "PATH": path,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "COLUMNS": "100",
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
        }
        for example in examples(page):
            done = subprocess.run(
                ["bash", "-c", example.command.replace(WEB, f"{hub.url}/files")],
                cwd=work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            printed = done.stdout.replace(f"{hub.url}/files", WEB)
            assert is_shown(example.output, printed), f"$ {example.command}\n{printed}"


WITH_SESSIONS = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", WITH_SESSIONS, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_sessions_give_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bodies = [
        body for language, body in _FENCE.findall(page.read_text(encoding="utf-8")) if language == "python"
    ]
    test = DocTestParser().get_doctest("\n".join(bodies), {}, page.name, str(page), 0)
    assert DocTestRunner().run(test).failed == 0


def test_other_output_is_not_taken_for_what_is_shown() -> None:
    assert is_shown("a\n…\nd", "a\nb\nc\nd\n")
    assert not is_shown("a\n…\nd", "a\nb\nc\n")
    assert not is_shown("a", "a b")
    assert is_shown("a  b", "a   b\n")
