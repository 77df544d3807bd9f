"""What a policy learns from: the steps of a robot's episodes, looked at before the first one is learned."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dovetail.data.episodes import Episodes, Steps, open_episodes
from dovetail.data.measured import measure
from dovetail.data.normalization import normalization
from dovetail.data.policy import PolicyFacts, read_policy
from dovetail.data.policy_batches import PolicyBatches, camera_map
from dovetail.data.saved_statistics import SavedStatistics, saved_statistics
from dovetail.errors import FormatError, UsageError, listed
from dovetail.models.policies.policy import Policy
from dovetail.render.page import Line, Page
from dovetail.report import Finding, counted
from dovetail.store.open import open_checkpoint
from dovetail.train.recipe import Recipe

Progress = Callable[[int, int], None]
STATISTICS = ("checkpoint", "data", "none")
_CHANGED = ("policy_preprocessor.json", "policy_postprocessor.json", "processor_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLessons:
    """Steps, what makes batches of them, the statistics that are saved with the policy if they are new, and
    what was found of the data beside those of the checkpoint."""

    rows: Steps
    batches: PolicyBatches
    policy: PolicyFacts
    saved: SavedStatistics | None
    findings: tuple[Finding, ...]

    @property
    def fingerprint(self) -> str:
        """Which data these are."""
        return self.rows.episodes.fingerprint

    def labels(self) -> dict[str, Any]:
        """What decides the losses beside the data."""
        return {
            "cameras": dict(self.batches.cameras),
            "counting": str(self.batches.counting),
            "horizon": self.rows.horizon,
            "statistics": self.policy.robot.statistics.source if self.policy.robot.statistics else None,
        }

    def side_files(self, record: Mapping[str, Any]) -> Mapping[str, bytes]:
        """The files of new statistics, for every save."""
        return self.saved.files if self.saved else {}

    def prepare(self, model: Any) -> None:
        """Puts new statistics among the weights, where the policy keeps them there."""
        normalizer = model.normalizer if isinstance(model, Policy) else None
        if self.saved is None or normalizer is None:
            return
        state, actions = self.saved.statistics.state, self.saved.statistics.actions
        assert state is not None
        assert actions is not None
        places = [
            (normalizer.state_in, state),
            (normalizer.action_in, actions),
            (normalizer.action_out, actions),
        ]
        with torch.no_grad():
            for place, scale in places:
                for name in ("mean", "std"):
                    getattr(place, name).copy_(torch.from_numpy(scale.said[name]))


def read_policy_lessons(
    recipe: Recipe, start: str, settings: Mapping[str, Any], *, progress: Progress | None = None
) -> PolicyLessons:
    """The lessons of the data of a recipe, for the policy that training begins with.

    Raises:
        UsageError: cameras, widths or statistics do not match, or a word of the recipe is for conversations.
        FormatError: an episode is damaged, or holds NaN.
    """
    _check(recipe)
    policy = read_policy(start, tokenizer=recipe.tokenizer, settings=settings, trust=recipe.trust)
    episodes = open_episodes(recipe.data or "")
    saved: SavedStatistics | None = None
    findings: tuple[Finding, ...] = ()
    if recipe.statistics == "data":
        measured = measure(episodes, horizon=policy.horizon, progress=progress)
        if measured.broken:
            raise FormatError(
                f"{counted(len(measured.broken), 'frame')} with NaN or infinity: {listed(measured.broken)}",
                folder=episodes.source,
                hint="leave these episodes out",
            )
        saved = saved_statistics(measured, policy, _beside(start))
        policy = policy._replace(robot=replace(policy.robot, statistics=saved.statistics))
    elif recipe.statistics == "none":
        policy = policy._replace(robot=replace(policy.robot, statistics=None))
    elif policy.robot.statistics is None:
        raise UsageError(
            "the checkpoint has no statistics to normalise states and actions with",
            checkpoint=start,
            hint="--statistics data measures them and saves them with the policy; --statistics none takes "
            "numbers as they are",
        )
    else:
        report = normalization(episodes, policy, checkpoint=start, progress=progress)
        findings = tuple(one for one in report.findings if one.severity != "note")
    return lessons_of(recipe, policy, episodes, saved=saved, findings=findings)


def lessons_of(
    recipe: Recipe,
    policy: PolicyFacts,
    episodes: Episodes,
    *,
    saved: SavedStatistics | None = None,
    findings: tuple[Finding, ...] = (),
) -> PolicyLessons:
    """The lessons of episodes for a policy that is ready.

    Raises:
        UsageError: cameras or widths do not match.
    """
    batches = PolicyBatches(
        policy,
        episodes,
        cameras=camera_map(recipe.camera_map),
        padding=recipe.padding,  # type: ignore[arg-type]
    )
    rows = Steps(episodes, horizon=policy.horizon)
    return PolicyLessons(rows=rows, batches=batches, policy=policy, saved=saved, findings=findings)


def policy_page(lessons: PolicyLessons) -> Page:
    """What is learned, as a page."""
    episodes = lessons.rows.episodes
    count = f"{counted(len(episodes.lengths), 'episode')}, {counted(episodes.frames, 'frame')}"
    page: Page = [
        Line(""),
        Line(f"learns from {os.fspath(episodes.source)}: {count}", "title"),
        Line(f"{episodes.form}; {lessons.rows.horizon} actions from each frame on", "dim"),
        *(Line(note) for note in lessons.batches.notes),
    ]
    for finding in lessons.findings:
        page.append(Line(f"{finding.severity}: {finding.message}", finding.severity))
        if finding.hint:
            page.append(Line(f"  hint: {finding.hint}"))
    return page


def _check(recipe: Recipe) -> None:
    """Refuses words that mean something of conversations.

    Raises:
        UsageError: one is given.
    """
    given = {
        "--packing": recipe.packing,
        "--length-grouping": recipe.length_grouping,
        "--max-length": recipe.max_length is not None,
        "--max-samples": recipe.max_samples is not None,
        "--image-root": recipe.image_root is not None,
        "--on-error": recipe.on_error != "stop",
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{name} is for conversations, and these are a robot's episodes", hint="leave it out"
            )
    if recipe.statistics not in STATISTICS:
        raise UsageError(
            f"there are no statistics `{recipe.statistics}`", hint=f"known: {listed(STATISTICS)}"
        )


def _beside(start: str) -> dict[str, bytes]:
    """Files beside the checkpoint that new statistics change."""
    found: dict[str, bytes] = {}
    with open_checkpoint(start) as store:
        for folder in store.beside:
            for name in folder.files():
                if name in _CHANGED or ("normalizer_processor" in name and name.endswith(".safetensors")):
                    found.setdefault(name, folder.read(name))
    return found
