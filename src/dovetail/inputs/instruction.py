"""What a policy is told to do, as tokens.

    pi0      <bos> instruction newline
    pi0.5    <bos> "Task: instruction, State: 12 200 ...;\\nAction: "

The families declare these frames (`Family.prompt`); underscores and line breaks of an instruction become
spaces. pi0.5 reads its state here: each number of [-1, 1] as one of 256 steps. openpi writes the numbers
that the robot has, lerobot as many as the policy may have, zeros behind; whose files lie beside the weights
decides.

Sources: openpi@15a9616 `models/tokenizer.py:PaligemmaTokenizer`; lerobot@390bfff
`policies/pi0/processor_pi0.py`, `policies/pi05/processor_pi05.py`.
"""

import numpy as np
from jaxtyping import Float64

from dovetail.declare.prompt import Prompt
from dovetail.errors import UsageError
from dovetail.inputs.framed import framed_tokens
from dovetail.inputs.tokenizer import Tokenizer


def instruction_tokens(
    prompt: Prompt,
    tokenizer: Tokenizer,
    instruction: str,
    state: Float64[np.ndarray, " width"] | None,
    *,
    most: int | None,
) -> list[int]:
    """The ids of an instruction in the frame of a policy, with a normalised state where the frame has it.

    Raises:
        UsageError: there are more than `most`; openpi and lerobot would cut them off.
    """
    numbers = "" if state is None else " ".join(map(str, steps(state)))
    tokens = framed_tokens(prompt, instruction, tokenizer, config={}, state=numbers)
    if most is not None and len(tokens) > most:
        raise UsageError(
            f"the instruction has {len(tokens)} tokens, the policy was made for at most {most}",
            hint="say it in fewer words",
        )
    return tokens


def steps(state: Float64[np.ndarray, " width"]) -> list[int]:
    """Which of 256 equal steps from -1 to 1 each number is in; -1 below, 255 above.

    >>> steps(np.array([-2.0, -1.0, 0.0, 0.999, 5.0]))
    [-1, 0, 128, 255, 255]
    """
    edges = np.linspace(-1, 1, 257)[:-1]
    return [int(one) - 1 for one in np.digitize(state, edges)]
