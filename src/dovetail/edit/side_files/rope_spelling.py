"""Rotary positions in config.json, said as transformers 4 reads them and as transformers 5 does.

Version 4 reads `rope_theta` and `rope_scaling` and passes over `rope_parameters`: it takes its own theta
then and computes something else without a word. Version 5 reads all of them. Where both are written they
say the same.

Sources: transformers@4.57.6 and 5.23.0 `modeling_rope_utils.py`, `configuration_*.py`.
"""

from collections.abc import Mapping
from typing import Any

# The kinds that transformers 4 has; mrope is its old word for sections of the default.
_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "mrope")


def scaling_of(said: Mapping[str, Any]) -> dict[str, Any]:
    """What `rope_scaling` says of what stands in it or in `rope_parameters`; nothing where nothing is scaled.

    >>> scaling_of({"rope_type": "default", "rope_theta": 10000.0})
    {}
    """
    scaling = {key: value for key, value in said.items() if key != "rope_theta"}
    return {} if scaling == {"rope_type": "default"} else scaling


def with_old_spelling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with `rope_theta` and `rope_scaling` in every section that only has `rope_parameters`."""
    return _in_sections(config, _old)


def with_both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each spelling where there is the other."""
    return _in_sections(_in_sections(config, _old), _new)


def _in_sections(config: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """A config changed at the top and in its sections, of which some have sections of their own."""
    sections = {
        key: _in_sections(value, change) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in config.items()
    }
    changed: dict[str, Any] = change(sections)
    return changed


def _old(section: dict[str, Any]) -> dict[str, Any]:
    said = section.get("rope_parameters")
    if not isinstance(said, dict) or said.get("rope_type", "default") not in _KINDS:
        return section  # one of each kind of layer, or of a kind that version 4 does not have
    scaling = scaling_of(said)
    added: dict[str, Any] = {}
    if "rope_theta" in said and "rope_theta" not in section:
        added["rope_theta"] = said["rope_theta"]
    if scaling and section.get("rope_scaling") is None:
        added["rope_scaling"] = scaling
    return {**section, **added}


def _new(section: dict[str, Any]) -> dict[str, Any]:
    theta, scaling = section.get("rope_theta"), section.get("rope_scaling") or {}
    if "rope_parameters" in section or theta is None:
        return section
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    kept = {key: value for key, value in scaling.items() if key not in ("type", "rope_type", "rope_theta")}
    said = {"rope_type": "default" if kind == "mrope" else kind, "rope_theta": theta, **kept}
    return {**section, "rope_parameters": said}
