"""One hostile index, listing, folder or config per attack: what each gives, word for word.

Refusals and findings stand in `tests/golden/errors/files.txt`.
"""

from pathlib import Path

import pytest
import yaml
from file_attacks import CONFIGS, FOLDERS, INDEXES, LISTINGS, SENTINEL, Attack

import dovetail
import snapshots
from dovetail.errors import DovetailError, printable
from dovetail.render.html import report_html
from dovetail.render.page import inspect_page
from dovetail.render.plain import write_plain
from measured import peak_of

ATTACKS = {
    f"{group}: {attack}": write
    for group, attacks in (
        ("index", INDEXES),
        ("listing", LISTINGS),
        ("folder", FOLDERS),
        ("config", CONFIGS),
    )
    for attack, write in attacks.items()
}


def outcome(attack: Attack, folder: Path) -> str:
    """What `inspect` says: the refusal, or the findings below the family."""
    try:
        report = dovetail.inspect(attack(folder))
    except DovetailError as error:
        return f"{type(error).__name__}: {error}"
    write_plain(inspect_page(report))
    report_html(report)
    lines = [f"{finding.severity} {finding.code}: {finding.message}" for finding in report.findings]
    return "\n".join([f"family {report.family}", *map(printable, lines)])


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_gives_these_words_and_takes_little_room(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it"
    folder.mkdir()
    monkeypatch.chdir(folder)
    said: list[str] = []
    peak = peak_of(lambda: said.append(outcome(ATTACKS[attack], folder)))
    assert not Path(SENTINEL).exists()
    assert peak < 150_000_000
    snapshots.check_section("errors/files.txt", attack, said[0].replace(str(tmp_path), "DIR"))


def test_there_is_a_section_for_each_attack() -> None:
    assert snapshots.sections("errors/files.txt") == list(ATTACKS)


def test_sentinel_would_show_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = CONFIGS["YAML that runs code"](tmp_path).with_name("model_config.yaml")
    yaml.unsafe_load(path.read_text())
    assert Path(SENTINEL).exists()


def test_no_words_move_the_cursor_or_are_pythons() -> None:
    text = (snapshots.GOLDEN / "errors" / "files.txt").read_text()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "Errno" not in text
