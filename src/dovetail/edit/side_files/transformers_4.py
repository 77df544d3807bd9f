"""Tokenizer and processor files of transformers 5, as transformers 4 opens them.

Version 5 calls a tokenizer that is all in tokenizer.json `TokenizersBackend`, which version 4 does not have,
lists extra special tokens where version 4 expects names, and keeps the image settings inside
processor_config.json, where version 4 does not look. What version 4 wrote stays as it is.

Sources: transformers@4.57.6 `tokenization_utils_base.py`, `processing_utils.py`; 5.23.0 likewise.
"""

import json
from collections.abc import Mapping
from typing import Any

TOKENIZER, PROCESSOR = "tokenizer_config.json", "processor_config.json"
# sections of processor_config.json -> the files that version 4 opens
_SECTIONS = {
    "image_processor": "preprocessor_config.json",
    "video_processor": "video_preprocessor_config.json",
}


def for_transformers_4(texts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files beside the weights, with those adapted that version 4 would not open."""
    adapted = dict(texts)
    if config := _parsed(texts.get(TOKENIZER)):
        adapted |= _changed(TOKENIZER, config, _tokenizer(config))
    if config := _parsed(texts.get(PROCESSOR)):
        inside = {key: config[key] for key in _SECTIONS if isinstance(config.get(key), dict)}
        outside = {key: value for key, value in config.items() if key not in inside}
        named = {key: config[key] for key in ("processor_class",) if key in config}
        adapted |= _changed(PROCESSOR, config, outside)
        for key, section in inside.items():
            adapted.setdefault(_SECTIONS[key], _dumped({**named, **section}))
    return adapted


def _tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(config)
    if config.get("tokenizer_class") == "TokenizersBackend":
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        more = changed.pop("extra_special_tokens")
        before = changed.get("additional_special_tokens") or []
        changed["additional_special_tokens"] = list(dict.fromkeys([*before, *more]))
    return changed


def _changed(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, bytes]:
    return {} if before == after else {name: _dumped(after)}


def _parsed(text: bytes | None) -> dict[str, Any]:
    """What a file says, nothing if it is not there or cannot be read."""
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _dumped(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
