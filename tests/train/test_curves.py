"""The log of a run and what is drawn of it."""

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dovetail.errors import FormatError
from dovetail.render.curves import Line
from dovetail.train.curves import panels_of, write_curves
from dovetail.train.run_log import RunLog


class _Reader(HTMLParser):
    """The tags that are open, all words, and the attributes of all elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words = ""
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "wbr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def logged(folder: Path, steps: int = 300) -> RunLog:
    log = RunLog(str(folder))
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / 50) + 0.2 + 0.1 * (step % 7)
        log.append(
            {"step": step, "epoch": step / 100, "loss": loss, "learning_rate": 1e-3 * (1 - step / 301)}
        )
        if step % 50 == 0:
            log.append(
                {"step": step, "eval_loss": loss + 0.1, "eval_exact_answers": step / 300, "eval_runtime": 2.0}
            )
    return log


def test_every_number_that_is_logged_is_on_the_page(tmp_path: Path) -> None:
    log = logged(tmp_path)
    log.append({"step": 301, "loss": float("nan"), "<script>": 2.5})
    said = {"model": "/here/model", "tuned": "all"}
    paths = write_curves(
        str(tmp_path),
        title="Training of qwen2_vl",
        said=said,
        total=301,
        is_finished=False,
        command="dovetail",
    )
    assert [Path(path).name for path in paths] == ["curves.html", "curves.png"]
    assert Path(paths[1]).read_bytes().startswith(b"\x89PNG")
    page = _Reader()
    page.feed(Path(paths[0]).read_text())
    assert page.open == []
    assert "script" not in page.tags
    for words in ("running", "step 301 of 301", "loss is NaN or infinite at step 301", "<script>", "2.5"):
        assert words in page.words
    titles = [panel.title for panel in panels_of(log.read())]
    assert titles == ["Loss", "Accuracy", "Learning rate", "<script>"]
    assert not any(panel.is_logarithmic for panel in panels_of(log.read()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.html", "curves.png", "log.jsonl"]


def test_a_line_that_is_rough_has_a_mean_and_a_long_one_keeps_its_ends() -> None:
    smooth = Line("rate", tuple((i, 1 - i / 1000) for i in range(1000)))
    rough = Line("loss", tuple((i, float(i % 2)) for i in range(1000)))
    assert smooth.smooth is None
    assert rough.smooth is not None
    assert {round(value, 1) for _, value in rough.smooth.points[100:900]} == {0.5}
    spike = rough._replace(points=(*rough.points[:500], (500.0, 99.0), *rough.points[501:]))
    assert len(spike.drawn) <= 600
    assert (500.0, 99.0) in spike.drawn


def test_a_log_is_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    log = logged(tmp_path, 60)
    with open(log.path, "a") as file:
        file.write('{"step": 61, "lo')
    with pytest.raises(FormatError, match=r"line 62 of log\.jsonl is no JSON object"):
        log.read()
    log.keep_until(20)
    assert [entry["step"] for entry in log.read()] == list(range(1, 21))
    log.append({"step": 21, "loss": math.inf})
    assert log.read()[-1] == {"step": 21, "loss": "inf"}
