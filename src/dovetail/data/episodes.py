"""What robots did: episodes of states and actions with what cameras saw, and the samples that policies learn.

    episodes = open_episodes("pick_up")                 a data set of lerobot, or a folder of .npz files
    steps = Steps(episodes, horizon=50)                 one sample for each frame
    steps[7].state, steps[7].actions, steps[7].cameras

    n  frames of an episode    t  action steps    w, a  widths of state and action

A sample is an observation and the actions from there on. Past the end of the episode the last action is
repeated, and `is_past` says so, as lerobot has it. No image is decoded here; a data set may be pickled.

Sources: lerobot@v0.4.4 `datasets/lerobot_dataset.py:_get_query_indices`; openpi@15a9616
`training/data_loader.py:create_torch_dataset`, which reads through it.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from dovetail.data.frame import Frame
from dovetail.errors import FormatError, MissingError, UsageError


class Recorded(NamedTuple):
    """The numbers of one episode, with the instruction of each frame."""

    state: Float64[np.ndarray, "n w"]
    actions: Float64[np.ndarray, "n a"]
    instructions: tuple[str, ...]


class Step(NamedTuple):
    """One sample: what was seen, told and felt at a frame, and the actions from there on."""

    source: str
    episode: int
    frame: int
    number: int
    instruction: str
    state: Float64[np.ndarray, " w"]
    actions: Float64[np.ndarray, "t a"]
    is_past: Bool[np.ndarray, " t"]
    cameras: Mapping[str, Frame]

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.source}, episode {self.episode}, frame {self.frame}"


class Episodes(ABC):
    """A data set. Names are those that it gives its numbers, or none.

    `source` is the folder; `cameras` are the names of its cameras; `lengths` has the frames of each episode.
    """

    source: str
    form: str
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    fps: float | None
    lengths: tuple[int, ...]

    @abstractmethod
    def numbers(self, episode: int) -> Recorded:
        """States, actions and instructions of an episode.

        Raises:
            FormatError: they are not there, or of another length than the data set says.
        """

    @abstractmethod
    def seen(self, episode: int, frame: int) -> dict[str, Frame]:
        """What each camera saw, not decoded."""

    def declared(self) -> Mapping[str, Mapping[str, Float64[np.ndarray, " _"]]]:
        """The statistics of `state` and `actions` that the data set says itself; nothing by default."""
        return {}

    @property
    def frames(self) -> int:
        """How many frames there are in all episodes together."""
        return sum(self.lengths)

    @cached_property
    def fingerprint(self) -> str:
        """Tells data sets apart: cameras, lengths, states, actions and instructions, without images."""
        hashed = hashlib.sha256(repr((self.cameras, self.lengths)).encode())
        for episode in range(len(self.lengths)):
            recorded = self.numbers(episode)
            hashed.update(recorded.state.tobytes())
            hashed.update(recorded.actions.tobytes())
            hashed.update("\n".join(dict.fromkeys(recorded.instructions)).encode())
        return hashed.hexdigest()[:16]


class Steps(Sequence[Step]):
    """The samples of a data set, one for each frame, with as many actions as a policy makes at once."""

    def __init__(self, episodes: Episodes, *, horizon: int) -> None:
        self.episodes = episodes
        self.horizon = horizon
        self._ends = np.cumsum(episodes.lengths, dtype=np.int64)

    def __len__(self) -> int:
        return self.episodes.frames

    def __getitem__(self, number: int) -> Step:  # type: ignore[override]
        """The sample.

        Raises:
            FormatError: a state or an action of it is NaN or infinite.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        episode = int(np.searchsorted(self._ends, number, side="right"))
        length = self.episodes.lengths[episode]
        frame = number - int(self._ends[episode]) + length
        recorded = self.episodes.numbers(episode)
        wanted = np.arange(frame, frame + self.horizon)
        actions = recorded.actions[np.minimum(wanted, length - 1)]
        step = Step(
            source=self.episodes.source,
            episode=episode,
            frame=frame,
            number=number,
            instruction=recorded.instructions[frame],
            state=recorded.state[frame],
            actions=actions,
            is_past=wanted >= length,
            cameras=self.episodes.seen(episode, frame),
        )
        for name, numbers in (("state", step.state), ("action", actions)):
            if not np.isfinite(numbers).all():
                raise FormatError(
                    f"the {name} holds NaN or infinity",
                    where=step.place,
                    hint="leave the episode out; `dovetail data FOLDER --policy CKPT` lists all of them",
                )
        return step


def open_episodes(path: str | os.PathLike[str]) -> Episodes:
    """A data set of lerobot (meta/info.json), or a folder with one .npz file for each episode.

    Raises:
        MissingError: there is no such folder.
        UsageError: it is neither.
        FormatError: it is damaged.
    """
    place = os.fspath(path)
    if not os.path.isdir(place):
        raise MissingError("there is no such folder", folder=place, hint="give the folder of the data set")
    if os.path.exists(os.path.join(place, "meta", "info.json")):
        from dovetail.data.lerobot import LerobotEpisodes

        return LerobotEpisodes(place)
    from dovetail.data.npz import NpzEpisodes, episode_files

    if episode_files(place):
        return NpzEpisodes(place)
    raise UsageError(
        "the folder holds no episodes",
        folder=place,
        expected="meta/info.json, as lerobot has it, or one .npz file for each episode",
        hint="docs/guides/data.md shows both forms",
    )


def is_episodes(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a robot's data set, by the names of its files alone."""
    place = os.fspath(path)
    if not os.path.isdir(place):
        return False
    from dovetail.data.npz import episode_files

    return os.path.exists(os.path.join(place, "meta", "info.json")) or bool(episode_files(place))
