"""A process that holds real vLLM engines and does what tests tell it, one JSON line at a time.

vLLM wants its environment set before it is imported, and leaves threads and processes behind: so no
test imports it. Run as `python -m tests.backends.vllm.host`, see `engines.py`.
"""

import importlib
import json
import os
import sys
from types import SimpleNamespace

OPTIONS = {
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 32 << 20,
    "max_model_len": 256,
    "max_num_batched_tokens": 1024,
    "max_num_seqs": 32,
    "skip_tokenizer_init": True,
    "enable_prefix_caching": True,
}


def interpret():
    """Run vLLM's Triton kernels in Triton's interpreter, so that model runner V2 works on a CPU."""
    import triton.backends

    active = SimpleNamespace(is_active=lambda: True)
    triton.backends.backends["cpu"] = SimpleNamespace(driver=active)
    import vllm.v1.sample.ops.topk_topp_sampler as sampler

    sampler.HAS_TRITON = False  # the one kernel that the interpreter cannot run


def start(options, asynchronous=False):
    """Return a new engine."""
    from vllm import LLM

    if asynchronous:
        from vllm.config import VllmConfig  # noqa: F401  (the platform is resolved by it)
        from vllm.platforms import current_platform

        type(current_platform).check_and_update_config = _leave_async_on(
            type(current_platform).check_and_update_config
        )
    return LLM(**OPTIONS | options)


def _leave_async_on(check):
    """The CPU platform switches async scheduling off, since it does not need it."""
    original = check.__func__

    def keep(cls, config):
        original(cls, config)
        config.scheduler_config.async_scheduling = True

    return classmethod(keep)


def play(llm, events):
    """Add and abort requests at given steps, and return what each has drawn when all are done."""
    import numpy
    import torch
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    # Requests without a seed of their own draw from these, so they repeat too.
    torch.manual_seed(0)
    numpy.random.seed(0)
    engine, step, results = llm.llm_engine, 0, {}
    waiting = sorted(events, key=lambda event: event["step"])
    while waiting or engine.has_unfinished_requests():
        while waiting and waiting[0]["step"] <= step:
            event = waiting.pop(0)
            if "abort" in event:
                engine.abort_request([event["abort"]])
                continue
            params = event["params"] | {"output_kind": RequestOutputKind.FINAL_ONLY}
            if "logit_bias" in params:  # JSON knows text keys only
                params["logit_bias"] = {
                    int(key): bias for key, bias in params["logit_bias"].items()
                }
            if "structured_outputs" in params:
                params["structured_outputs"] = StructuredOutputsParams(
                    **params["structured_outputs"]
                )
            prompt = {"prompt_token_ids": event["prompt"]}
            engine.add_request(event["add"], prompt, SamplingParams(**params))
        for output in engine.step():
            results[output.request_id] = output
        step += 1
        assert step < 2000, "the engine does not come to an end"
    # One more step tells the worker who has finished; an engine in a process of its own takes it.
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0":
        engine.step()
    return {name: describe(output) for name, output in results.items()}


def describe(output):
    """Return a request's samples as JSON data."""
    return {
        "tokens": [list(each.token_ids) for each in output.outputs],
        "logprobs": [
            [row[token].logprob for row, token in zip(each.logprobs, each.token_ids, strict=True)]
            if each.logprobs
            else None
            for each in output.outputs
        ],
        "prompt_logprobs": [
            None if row is None else {str(token): value.logprob for token, value in row.items()}
            for row in output.prompt_logprobs or []
        ],
    }


def find(path):
    """Return a function by "module:name"."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def answer(engines, command):
    """Do one command."""
    match command["do"]:
        case "start":
            engines[command["engine"]] = start(command["options"], command["asynchronous"])
            return None
        case "play":
            return play(engines[command["engine"]], command["events"])
        case "rpc":
            return engines[command["engine"]].collective_rpc(
                command["method"], args=tuple(command["args"])
            )
        case "call":
            return find(command["function"])(engines[command["engine"]], **command["arguments"])
        case "script":
            return find(command["function"])()


def main():
    """Answer commands until stdin ends."""
    # What vLLM and its children print is for people; answers go to a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if os.environ.get("TRITON_INTERPRET") == "1":
        interpret()
    engines = {}
    for line in sys.stdin:
        try:
            reply = {"result": answer(engines, json.loads(line))}
        except Exception as error:  # noqa: BLE001  (told to the test, which fails with it)
            import traceback

            reply = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
