"""Decode a small random model on the vLLM that is installed, and check what must hold.

    python -m esamp.cli.vllm_selftest

Prints one JSON object. A process of its own, since an engine leaves much behind: `run` starts it.
"""

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

from esamp.backends.vllm.engine import start_engine
from esamp.cli.console import only_data_on_stdout, write_json
from esamp.cli.verdict import judge

SECONDS = 600
"""After which the engine is taken to hang."""


def run() -> dict[str, Any]:
    """Run the test in a process of its own; return its findings, or the error that ended it."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "esamp.cli.vllm_selftest"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"the engine has not come up within {SECONDS} s"}
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"the engine does not start: {last}", "seconds": seconds}
    findings: dict[str, Any] = json.loads(done.stdout)
    return findings | {"seconds": seconds}


def decode(folder: str) -> dict[str, Any]:
    """Sample plainly, with β 0 and with β 1, and compare."""
    from vllm import SamplingParams

    engine = start_engine(
        folder,
        "float32",
        additional_config={"esamp": {"max_groups": 4}},
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=64 << 20,
        max_model_len=128,
        max_num_seqs=16,
        enforce_eager=True,
    )

    def sample(beta: float | None) -> list[list[int]]:
        params = SamplingParams(
            n=8,
            seed=1,
            max_tokens=64,
            ignore_eos=True,
            detokenize=False,
            extra_args=None if beta is None else {"esamp_beta": beta},
        )
        (output,) = engine.generate({"prompt_token_ids": [5, 6, 7]}, params, use_tqdm=False)
        return [list(each.token_ids) for each in output.outputs]

    plain, off, on = sample(None), sample(0.0), sample(1.0)
    errors = engine.collective_rpc("esamp_errors", args=(0,))[0]
    return judge(plain, off, on, errors)


def save_random_model(folder: str) -> None:
    """Write a model of a shape that every platform of vLLM can run."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def main() -> None:
    """Write the findings to stdout, and whatever the engine prints to stderr."""
    with only_data_on_stdout(), tempfile.TemporaryDirectory() as folder:
        save_random_model(folder)
        findings = decode(folder)
    write_json(findings)


if __name__ == "__main__":
    main()
