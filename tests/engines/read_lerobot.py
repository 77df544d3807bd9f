"""Runs in an environment of lerobot: opens a policy of full size without memory, and says what lerobot says.

    python read_lerobot.py FOLDER

Prints a JSON line: what `from_pretrained` printed, the class, a few values of the config, and the shape of
every tensor of the model by name. What lerobot imports for cameras, videos and robots stands in.
"""

import contextlib
import io
import json
import sys
import types
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch

_UNUSED = {
    *("torchvision", "torchcodec", "av", "cv2", "imageio", "serial", "deepdiff", "gymnasium", "diffusers"),
    *("wandb", "datasets", "pandas", "pyarrow", "jsonlines"),
}
_CHECK = "transformers.models.siglip.check"  # by which lerobot's fork of transformers says that it is there


class _Kind(type):
    """A class that has everything that is asked of it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (), {})

    def __call__(cls, *given: Any, **_: Any) -> Any:
        return given[0] if given and callable(given[0]) else cls


class _Anything(types.ModuleType):
    """A module that has everything that is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (), {})


class _Finder:
    """Finds what is imported and not used."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        is_wanted = name.partition(".")[0] in _UNUSED or name.startswith((_CHECK, "lerobot.datasets"))
        return ModuleSpec(name, self, is_package=True) if is_wanted else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        made = _Anything(spec.name)
        made.__path__ = []
        if spec.name == _CHECK:
            vars(made)["check_whether_transformers_replace_is_installed_correctly"] = lambda: True
        return made

    def exec_module(self, _: types.ModuleType) -> None:
        return None


def main() -> None:
    folder = sys.argv[1]
    import_module("transformers.models.paligemma.modeling_paligemma")  # looks for torchvision itself
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
    import lerobot
    from lerobot.configs.policies import PreTrainedConfig

    kind = json.loads(Path(folder, "config.json").read_text())["type"]
    root = Path(lerobot.__file__).parent / "policies"
    for name, place in (("lerobot.policies", root), (f"lerobot.policies.{kind}", root / kind)):
        sys.modules[name] = package = types.ModuleType(name)  # without what it imports of other policies
        package.__path__ = [str(place)]
    policy_class = getattr(import_module(f"lerobot.policies.{kind}.modeling_{kind}"), f"{kind.upper()}Policy")
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), torch.device("meta"):
        config = PreTrainedConfig.from_pretrained(folder)
        config.device = "meta"
        policy = policy_class.from_pretrained(folder, config=config)
    report = {
        "said": [line for line in heard.getvalue().splitlines() if line],
        "class": type(policy).__name__,
        "chunk_size": config.chunk_size,
        "image_resolution": list(config.image_resolution),
        "dtype": config.dtype,
        "shapes": {name: list(one.shape) for name, one in policy.state_dict().items()},
        "version": lerobot.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
