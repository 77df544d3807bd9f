"""Claim: a manifest of 1,000,000 records opens in seconds with flat memory, in either form of JSON.

As whole processes that open it and read the last record, beside `datasets` (which copies it into Arrow
first; its cache is new each time), and `json.load`, which holds all records. Then what a record costs.
"""

import json
import random
import tempfile
import time
from pathlib import Path

from dovetail.data.manifest import open_manifest
from measure import PYTHON, Row, alternate, has, show, sized, where

RECORDS = sized(1_000_000, 2_000)
DOVETAIL_OPENS = (
    "import sys; from dovetail.data.manifest import open_manifest; open_manifest(sys.argv[1])[-1]"
)
DATASETS_OPENS = """
import sys, tempfile
from datasets import load_dataset
with tempfile.TemporaryDirectory() as cache:
    load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=cache)[-1]
"""
JSON_OPENS = "import json, sys; json.load(open(sys.argv[1]))[-1]"


def record(number: int) -> str:
    """A record as LLaVA's mixtures have it."""
    said = [
        {"from": "human", "value": f"<image>\nWhat do you see in image number {number}?"},
        {"from": "gpt", "value": "A photograph of a red bus in a street with a tree. " * 2},
    ]
    return json.dumps({"id": str(number), "image": f"images/{number:07}.jpg", "conversations": said})


def write(folder: Path) -> tuple[Path, Path]:
    """The records one a line, and as one list."""
    lines, whole = folder / "m.jsonl", folder / "m.json"
    with open(lines, "w") as one, open(whole, "w") as other:
        other.write("[")
        for number in range(RECORDS):
            text = record(number)
            one.write(f"{text}\n")
            other.write(f"{',' if number else ''}\n{text}")
        other.write("\n]")
    return lines, whole


def open_rows(lines: Path, whole: Path) -> list[Row]:
    """Whole processes."""
    commands = {
        "dovetail, jsonl": [PYTHON, "-c", DOVETAIL_OPENS, str(lines)],
        "dovetail, json": [PYTHON, "-c", DOVETAIL_OPENS, str(whole)],
        "json.load, json": [PYTHON, "-c", JSON_OPENS, str(whole)],
    }
    if has("datasets"):
        commands["datasets, jsonl"] = [PYTHON, "-c", DATASETS_OPENS, str(lines)]
        commands["datasets, json"] = [PYTHON, "-c", DATASETS_OPENS, str(whole)]
    runs = alternate(commands, 3)
    return [(name, f"{run.median:.2f} s", f"{run.peak_mb:.0f} MB") for name, run in runs.items()]


def read_rows(lines: Path) -> list[Row]:
    """A sample by its number, in any order."""
    numbers = [random.Random(0).randrange(RECORDS) for _ in range(sized(20_000, 200))]
    manifest = open_manifest(lines)
    rows: list[Row] = []
    begin = time.perf_counter()
    for number in numbers:
        manifest[number]
    rows.append(("dovetail", f"{(time.perf_counter() - begin) / len(numbers) * 1e6:.0f} us"))
    if has("datasets"):
        from datasets import load_dataset

        with tempfile.TemporaryDirectory() as cache:
            theirs = load_dataset("json", data_files=str(lines), split="train", cache_dir=cache)
            begin = time.perf_counter()
            for number in numbers:
                theirs[number]
            rows.append(("datasets", f"{(time.perf_counter() - begin) / len(numbers) * 1e6:.0f} us"))
    return rows


def main() -> None:
    """Prints the tables."""
    print(where("datasets"))
    with tempfile.TemporaryDirectory() as name:
        lines, whole = write(Path(name))
        size = lines.stat().st_size / 1e6
        show(
            f"{RECORDS:,} records ({size:.0f} MB) opened and the last one read, whole processes",
            ("what", "median", "peak memory"),
            open_rows(lines, whole),
        )
        show("a record by its number, in any order", ("what", "time"), read_rows(lines))


if __name__ == "__main__":
    main()
