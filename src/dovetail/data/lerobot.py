"""Data sets of lerobot, versions 2.0, 2.1 and 3.0: a folder of parquet, with frames beside or in it.

    what            2.x                                       3.0
    instructions    meta/tasks.jsonl                          meta/tasks.parquet
    episodes        meta/episodes.jsonl                       meta/episodes/chunk-*/file-*.parquet
    numbers         data/chunk-*/episode_*.parquet            data/chunk-*/file-*.parquet, many in each
    image           PNG or JPEG in a column                   the same
    video           videos/chunk-*/KEY/episode_*.mp4          videos/KEY/chunk-*/file-*.mp4, many in each

Paths come from meta/info.json and may only name files in the folder. State and actions are
`observation.state` and `action`, or `state` and `actions` as openpi's converters call them.

Sources: lerobot@v0.3.3 and @v0.4.4 `datasets/{lerobot_dataset,utils}.py`; folders that both wrote.
"""

import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dovetail.data.episodes import Episodes, Recorded
from dovetail.data.frame import Frame, VideoFrame, check_decoder
from dovetail.data.sample import Picture
from dovetail.errors import FormatError, MissingError, UsageError, listed
from dovetail.store.folder import LocalFolder

_VERSIONS = ("v2.0", "v2.1", "v3.0")
_STATES, _ACTIONS = ("observation.state", "state"), ("action", "actions")
_IMAGES = "observation.images."
_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
# Episodes whose numbers, and bytes of images, that are kept for the samples that follow.
_MOST_EPISODES, _MOST_BYTES = 256, 256 << 20


class _Place(NamedTuple):
    """Where an episode's rows are: a file, the first row in it, and for each video its file and its start."""

    number: int
    file: str
    row: int
    videos: Mapping[str, tuple[str, float]]


class LerobotEpisodes(Episodes):
    """A data set of lerobot."""

    def __init__(self, path: str) -> None:
        self.source = path
        self._folder = LocalFolder(path)
        info = self._info = _json(self._folder, "meta/info.json")
        version = str(info.get("codebase_version"))
        if version not in _VERSIONS:
            raise UsageError(
                f"the data set is of version {version}",
                folder=path,
                expected=listed(_VERSIONS),
                hint="convert it with lerobot",
            )
        self.form = f"lerobot {version}"
        self._is_v3 = version == "v3.0"
        features = info.get("features")
        if not isinstance(features, dict):
            raise FormatError("meta/info.json says no features", folder=path)
        self._state, self._actions = (_key(features, known, path) for known in (_STATES, _ACTIONS))
        self.state_names, self.action_names = (_names(features[key]) for key in (self._state, self._actions))
        kinds = {key: one.get("dtype") for key, one in features.items() if isinstance(one, dict)}
        self._keys = {
            key.removeprefix(_IMAGES): key for key, kind in kinds.items() if kind in ("image", "video")
        }
        self._videos = tuple(key for key in self._keys.values() if kinds[key] == "video")
        self.cameras = tuple(self._keys)
        fps = info.get("fps")
        self.fps = float(fps) if isinstance(fps, int | float) else None
        self._tasks = dict(self._read_tasks())
        places = list(self._read_places())
        if not places:
            raise FormatError("the data set has no episode", folder=path)
        self._places, self.lengths = tuple(one for one, _ in places), tuple(length for _, length in places)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_recent", "_rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._recent: OrderedDict[int, tuple[Recorded, np.ndarray]] = OrderedDict()
        self._rows = _ImageRows()

    def numbers(self, episode: int) -> Recorded:
        return self._read(episode)[0]

    def declared(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        if not os.path.exists(os.path.join(self.source, "meta", "stats.json")):
            return {}  # of 2.1, which keeps those of each episode
        said = _json(self._folder, "meta/stats.json")
        keys = {"state": self._state, "actions": self._actions}
        try:
            return {
                kind: {name: np.asarray(value, np.float64).reshape(-1) for name, value in said[key].items()}
                for kind, key in keys.items()
                if key in said
            }
        except (TypeError, ValueError, AttributeError) as error:
            where = os.path.join(self.source, "meta", "stats.json")
            raise FormatError(f"the file holds no statistics: {error}", file=where) from None

    def seen(self, episode: int, frame: int) -> dict[str, Frame]:
        place = self._places[episode]
        found: dict[str, Frame] = {}
        for name, key in self._keys.items():
            if key in self._videos:
                file, start = place.videos[key]
                check_decoder(file)
                found[name] = VideoFrame(file, start + float(self._read(episode)[1][frame]))
            else:
                found[name] = self._picture(place, key, frame)
        return found

    def _picture(self, place: _Place, key: str, frame: int) -> Picture:
        said = self._rows.value(place.file, key, place.row + frame)
        name = f"{place.file}: {key}, row {place.row + frame}"
        content, path = (said.get("bytes"), said.get("path")) if isinstance(said, dict) else (None, None)
        if isinstance(content, bytes):
            return Picture(name, content)
        if isinstance(path, str):
            return Picture(self._file(path, "the images"))
        raise FormatError("there is no image", where=name, expected="the bytes of an image file, or its path")

    def _read(self, episode: int) -> tuple[Recorded, np.ndarray]:
        """The numbers of an episode and the time of each frame."""
        known = self._recent.get(episode)
        if known is None:
            known = self._recent[episode] = self._read_rows(episode)
            if len(self._recent) > _MOST_EPISODES:
                self._recent.popitem(last=False)
        return known

    def _read_rows(self, episode: int) -> tuple[Recorded, np.ndarray]:
        place, length = self._places[episode], self.lengths[episode]
        columns = [self._state, self._actions, "task_index", "episode_index", "timestamp"]
        table = _rows(place.file, columns, place.row, length)
        if table.num_rows != length or set(table["episode_index"].to_pylist()) != {place.number}:
            raise FormatError(
                "the rows are not those of the episode",
                file=place.file,
                expected=f"{length} rows of episode {place.number} from row {place.row}",
                found=f"{table.num_rows} rows of {listed(map(str, set(table['episode_index'].to_pylist())))}",
                hint="the folder is half copied or half written; fetch or record it again",
            )
        tasks = table["task_index"].to_pylist()
        unknown = [one for one in tasks if one not in self._tasks]
        if unknown:
            raise FormatError(
                f"no instruction has the number {unknown[0]}", file=place.file, hint="meta/tasks lists them"
            )
        state, actions = (_matrix(table[key], place.file, key) for key in (self._state, self._actions))
        times = np.asarray(table["timestamp"].to_pylist(), np.float64)
        return Recorded(state, actions, tuple(self._tasks[one] for one in tasks)), times

    def _read_tasks(self) -> Iterator[tuple[int, str]]:
        if not self._is_v3:
            for one in _jsonl(self._folder, "meta/tasks.jsonl"):
                yield int(one["task_index"]), str(one["task"])
            return
        table = _rows(self._file("meta/tasks.parquet", "the version"))
        texts = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or len(texts) != 1:
            raise FormatError(
                "meta/tasks.parquet lists no tasks", folder=self.source, found=listed(table.column_names)
            )
        for number, text in zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True):
            yield int(number), str(text)

    def _read_places(self) -> Iterator[tuple[_Place, int]]:
        try:
            yield from self._v3_places() if self._is_v3 else self._v2_places()
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"meta/episodes does not say where episodes are: {error}",
                folder=self.source,
                hint="fetch the data set again",
            ) from None

    def _v2_places(self) -> Iterator[tuple[_Place, int]]:
        size = int(self._info.get("chunks_size", 1000))
        for one in _jsonl(self._folder, "meta/episodes.jsonl"):
            number = int(one["episode_index"])
            said = {"episode_chunk": number // size, "episode_index": number}
            videos = {
                key: (self._path("video_path", {**said, "video_key": key}), 0.0) for key in self._videos
            }
            yield _Place(number, self._path("data_path", said), 0, videos), _length(one["length"])

    def _v3_places(self) -> Iterator[tuple[_Place, int]]:
        wanted = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
        for key in self._videos:
            wanted += [f"videos/{key}/{what}" for what in ("chunk_index", "file_index", "from_timestamp")]
        rows = [one for file in self._v3_files() for one in _rows(file, wanted).to_pylist()]
        rows.sort(key=lambda one: one["dataset_from_index"])
        first: dict[str, int] = {}
        for one in rows:
            file = self._path("data_path", _chunk(one, "data"))
            begin = first.setdefault(file, one["dataset_from_index"])
            videos = {
                key: (
                    self._path("video_path", {**_chunk(one, f"videos/{key}"), "video_key": key}),
                    float(one[f"videos/{key}/from_timestamp"]),
                )
                for key in self._videos
            }
            row = one["dataset_from_index"] - begin
            yield _Place(one["episode_index"], file, row, videos), _length(one["length"])

    def _v3_files(self) -> list[str]:
        root = os.path.join(self.source, "meta", "episodes")
        if not os.path.isdir(root):
            raise MissingError("there is no such folder", folder=root, hint="fetch the data set again")
        found = sorted(
            f"meta/episodes/{chunk}/{name}"
            for chunk in os.listdir(root)
            if os.path.isdir(os.path.join(root, chunk))
            for name in os.listdir(os.path.join(root, chunk))
            if name.endswith(".parquet")
        )
        return [self._file(name, "meta/episodes") for name in found]

    def _path(self, what: str, said: Mapping[str, Any]) -> str:
        """A file by the template of meta/info.json."""
        template = self._info.get(what)
        names = {match[1] for match in _FIELD.finditer(str(template))}
        if not isinstance(template, str) or not names <= set(said) or "{" in _FIELD.sub("", template):
            raise FormatError(
                f"`{what}` in meta/info.json is no path",
                folder=self.source,
                found=str(template),
                expected=" and ".join(f"{{{name}}}" for name in said),
            )
        return self._file(template.format(**said), "meta/info.json")

    def _file(self, name: str, named_by: str) -> str:
        """The path of a file of the data set.

        Raises:
            MissingError: it does not exist.
            UnsafeError: it lies elsewhere.
        """
        try:
            source = self._folder.open(name)
        except MissingError:
            raise MissingError(
                "a file of the data set is missing",
                file=os.path.join(self.source, name),
                named_by=named_by,
                hint="finish the copy or download",
            ) from None
        source.close()
        return os.path.join(self.source, name)


class _ImageRows:
    """Rows of columns of images; the groups that were read last are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, int], tuple[list[Any], int]] = OrderedDict()
        self._bytes = 0
        self._ends: dict[str, np.ndarray] = {}

    def value(self, file: str, column: str, row: int) -> Any:
        """What stands in a row."""
        if file not in self._ends:
            with _opened(file) as parquet:
                meta = parquet.metadata
                self._ends[file] = np.cumsum([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])
        ends = self._ends[file]
        group = int(np.searchsorted(ends, row, side="right"))
        values, start = self._group(file, column, group), 0 if group == 0 else int(ends[group - 1])
        return values[row - start]

    def _group(self, file: str, column: str, group: int) -> list[Any]:
        key = file, column, group
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        with _opened(file) as parquet:
            read = parquet.read_row_group(group, columns=[column])
        self._kept[key] = read[column].to_pylist(), read.nbytes
        self._bytes += read.nbytes
        while self._bytes > _MOST_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return self._kept[key][0]


def _opened(file: str) -> Any:
    """A parquet file.

    Raises:
        UsageError: nothing that reads parquet is installed.
        FormatError: it is none.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UsageError(
            "data sets of lerobot need pyarrow, which is not installed", file=file, hint="pip install pyarrow"
        ) from None
    try:
        return ParquetFile(file)
    except (OSError, ArrowException) as error:
        raise FormatError(f"the file is no parquet: {str(error).splitlines()[0]}", file=file) from None


def _rows(file: str, columns: list[str] | None = None, start: int = 0, count: int | None = None) -> Any:
    """Rows of a parquet file, reading the groups that they are in."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow.names
        lost = [name for name in columns or () if name not in schema]
        if lost:
            raise FormatError(f"the file has no column {listed(lost)}", file=file, found=listed(schema))
        if count is None:
            return parquet.read(columns=columns)
        groups: list[int] = []
        first = end = 0
        for i in range(parquet.metadata.num_row_groups):
            begin, end = end, end + parquet.metadata.row_group(i).num_rows
            if begin < start + count and end > start:
                first = begin if not groups else first
                groups.append(i)
        return parquet.read_row_groups(groups, columns=columns).slice(start - first, count)


def _matrix(column: Any, file: str, name: str) -> np.ndarray:
    """A column of lists of numbers, [rows, width]; what is null is NaN."""
    rows = column.to_pylist()
    flat = [one if isinstance(one, list) else [one] for one in rows]
    widths = {len(one) for one in flat}
    try:
        if len(widths) != 1:
            raise ValueError(f"rows of {listed(map(str, sorted(widths)))} numbers")
        return np.array([[np.nan if x is None else x for x in one] for one in flat], np.float64)
    except (TypeError, ValueError) as error:
        raise FormatError(f"column `{name}` holds no numbers: {error}", file=file) from None


def _key(features: Mapping[str, Any], known: tuple[str, ...], folder: str) -> str:
    found = [name for name in known if isinstance(features.get(name), dict)]
    if found:
        return found[0]
    raise UsageError(
        f"the data set has no `{known[0]}`",
        folder=folder,
        expected=" or ".join(known),
        found=listed(features),
        hint="rename the feature with lerobot",
    )


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """What the numbers of a feature are called; lerobot has a list, or lists under words like `motors`."""
    said = feature.get("names")
    if isinstance(said, dict):
        lists = [one for one in said.values() if isinstance(one, list)]
        said = lists[0] if len(lists) == 1 else None
    return tuple(map(str, said)) if isinstance(said, list) else ()


def _chunk(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {"chunk_index": row[f"{what}/chunk_index"], "file_index": row[f"{what}/file_index"]}


def _length(said: Any) -> int:
    if not isinstance(said, int) or said < 1:
        raise ValueError(f"an episode of {said} frames")
    return said


def _json(folder: LocalFolder, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(folder.read(name))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the file is no JSON: {error}", file=os.path.join(folder.name, name)) from None
    if not isinstance(found, dict):
        raise FormatError("the file holds no object", file=os.path.join(folder.name, name))
    return found


def _jsonl(folder: LocalFolder, name: str) -> Iterator[Mapping[str, Any]]:
    for i, line in enumerate(folder.read(name, 1 << 30).splitlines()):
        if line.strip():
            try:
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                where = f"{os.path.join(folder.name, name)}, line {i + 1}"
                raise FormatError(f"the line is no JSON: {error}", where=where) from None
            yield found
