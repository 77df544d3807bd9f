"""The cameras of a policy: what they are called, which are there, which are missing.

openpi calls them `base_0_rgb`, `left_wrist_0_rgb`, `right_wrist_0_rgb`, in this order; lerobot lists its own
in config.json (`observation.images.NAME`) and may rename a data set's in policy_preprocessor.json. A name
may be given in full or up to an underscore (`base`), if that means one camera only.

Sources: openpi@15a9616 `models/model.py:IMAGE_KEYS`; lerobot@390bfff `processor/rename_processor.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from dovetail.errors import UsageError

OPENPI = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
_LEROBOT = "observation.images."
Image = TypeVar("Image")


def cameras_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The cameras that a policy knows, in its order."""
    features = config.get("input_features")
    found = [
        name.removeprefix(_LEROBOT)
        for name, one in (features.items() if isinstance(features, dict) else ())
        if isinstance(one, dict) and one.get("type") == "VISUAL"
    ]
    return tuple(found) or OPENPI


def renames_of(pipeline: Mapping[str, Any]) -> dict[str, str]:
    """Other names of cameras, and which they mean, by a policy_preprocessor.json."""
    steps = [one for one in pipeline.get("steps") or () if isinstance(one, dict)]
    maps = [(one.get("config") or {}).get("rename_map") or {} for one in steps]
    return {
        str(old).removeprefix(_LEROBOT): str(new).removeprefix(_LEROBOT)
        for one in maps
        for old, new in one.items()
    }


def sorted_cameras(
    given: Mapping[str, Image], known: Sequence[str], renames: Mapping[str, str]
) -> dict[str, Image]:
    """What is given, by the policy's names and in its order.

    Raises:
        UsageError: a name means no camera or several, two mean the same, or there is none at all.
    """
    found: dict[str, Image] = {}
    for name, image in given.items():
        camera = _meant(name, known, renames)
        if camera in found:
            raise UsageError(f"camera `{camera}` is given twice", hint="each camera has one image")
        found[camera] = image
    if not found:
        raise UsageError("no camera is given", hint=f"--camera NAME=FILE; cameras: {', '.join(known)}")
    return {name: found[name] for name in known if name in found}


def _meant(name: str, known: Sequence[str], renames: Mapping[str, str]) -> str:
    short = name.removeprefix(_LEROBOT)
    short = renames.get(short, short)
    if short in known:
        return short
    near = [camera for camera in known if camera.startswith(f"{short}_")]
    if len(near) == 1:
        return near[0]
    other = f"; renamed: {', '.join(renames)}" if renames else ""
    raise UsageError(
        f"`{name}` is no camera of this policy" if not near else f"`{name}` may be {' or '.join(near)}",
        hint=f"cameras: {', '.join(known)}{other}",
    )
