"""What a policy is told to do, as tokens.

    pi0      <bos> instruction newline
    pi0.5    <bos> "Task: instruction, State: 12 200 ...;\\nAction: "

Underscores and line breaks of an instruction become spaces. pi0.5 reads its state here: each number of
[-1, 1] as one of 256 steps. openpi writes the numbers that the robot has, lerobot as many as the policy
may have, zeros behind; whose files lie beside the weights decides.

Sources: openpi@15a9616 `models/tokenizer.py:PaligemmaTokenizer`; lerobot@390bfff
`policies/pi0/processor_pi0.py`, `policies/pi05/processor_pi05.py`.
"""

import numpy as np
from jaxtyping import Float64

from dovetail.errors import UsageError
from dovetail.inputs.tokenizer import Tokenizer

LENGTHS = {"pi0": 48, "pi05": 200}


def pi0_tokens(tokenizer: Tokenizer, instruction: str) -> list[int]:
    """The ids for pi0; the line break is a token of its own."""
    return [*_begin(tokenizer), *tokenizer.encode(cleaned(instruction)), *tokenizer.encode("\n")]


def pi05_tokens(tokenizer: Tokenizer, instruction: str, state: Float64[np.ndarray, " width"]) -> list[int]:
    """The ids for pi0.5, with a normalised state."""
    numbers = " ".join(map(str, steps(state)))
    text = f"Task: {cleaned(instruction)}, State: {numbers};\nAction: "
    return [*_begin(tokenizer), *tokenizer.encode(text)]


def cleaned(instruction: str) -> str:
    """One line, without underscores."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


def steps(state: Float64[np.ndarray, " width"]) -> list[int]:
    """Which of 256 equal steps from -1 to 1 each number is in; -1 below, 255 above.

    >>> steps(np.array([-2.0, -1.0, 0.0, 0.999, 5.0]))
    [-1, 0, 128, 255, 255]
    """
    edges = np.linspace(-1, 1, 257)[:-1]
    return [int(one) - 1 for one in np.digitize(state, edges)]


def check_length(tokens: list[int], most: int) -> None:
    """Raises unless the policy was made for so many tokens.

    Raises:
        UsageError: there are more; openpi and lerobot would cut them off.
    """
    if len(tokens) > most:
        raise UsageError(
            f"the instruction has {len(tokens)} tokens, the policy was made for at most {most}",
            hint="say it in fewer words",
        )


def _begin(tokenizer: Tokenizer) -> list[int]:
    first = tokenizer.special("bos_token")
    return [] if first is None else [first]
