"""The tokens that end an answer, as the files beside the weights say them."""

import json

from dovetail.errors import CheckpointError
from dovetail.inputs.tokenizer import SideValues, Tokenizer


def stop_tokens(tokenizer: Tokenizer | None, values: SideValues) -> frozenset[int]:
    """The tokens that end an answer, by generation_config.json, else config.json, else the tokenizer.

    Raises:
        CheckpointError: what a config says are no tokens.
    """
    text = values.config.get("text_config")
    places = (
        ("generation_config.json", values.generation),
        ("config.json", values.config),
        ("config.json: text_config", text if isinstance(text, dict) else {}),
    )
    for name, place in places:
        said = place.get("eos_token_id")
        if said is None or said == []:
            continue
        ids = said if isinstance(said, list) else [said]
        if not all(type(one) is int and one >= 0 for one in ids):
            raise CheckpointError(
                "eos_token_id is no token",
                file=name,
                expected="a token id, or a list of them",
                found=json.dumps(said)[:200],
                hint="mend it, or take the line out: the tokenizer's eos_token is used then",
            )
        return frozenset(ids)
    end = tokenizer.special("eos_token") if tokenizer else None
    return frozenset() if end is None else frozenset({end})
