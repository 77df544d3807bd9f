"""Runs in an environment of vLLM: continues a prompt greedily.

    python read_vllm.py FOLDER TOKEN...

Prints a JSON line with the tokens.
"""

import json
import os
import sys

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}

from vllm import LLM, SamplingParams


def main() -> None:
    folder, *words = sys.argv[1:]
    model = LLM(folder, enforce_eager=True, max_model_len=32, dtype="float32", skip_tokenizer_init=True)
    asked = SamplingParams(max_tokens=6, temperature=0, detokenize=False)
    (answer,) = model.generate([{"prompt_token_ids": [int(word) for word in words]}], asked, use_tqdm=False)
    print(json.dumps({"tokens": list(answer.outputs[0].token_ids)}))


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
