"""Real engines for tests: a process that holds them, and what is sent to it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HAS_VLLM = importlib.util.find_spec("vllm") is not None
REQUIRED = os.environ.get("ESAMP_ENGINES") == "required"

needs_vllm = pytest.mark.skipif(
    not HAS_VLLM and not REQUIRED,
    reason="vLLM is NOT installed: nothing of the vLLM backend is tested (see the Makefile)",
)


class EngineError(Exception):
    """What went wrong in the process of the engines."""


class Host:
    """The process, and its engines by name."""

    def __init__(self, log: Path, **environment: str) -> None:
        self._log = log
        settings = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "2",
            "VLLM_LOGGING_STREAM": "ext://sys.stderr",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ESAMP_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.vllm.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            env=clean | settings | environment,
            cwd=ROOT,
            text=True,
        )

    def ask(self, **command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"the process is gone: {self.log()[-3000:]}")
        reply = json.loads(line)
        if "error" in reply:
            raise EngineError(reply["error"] + "\n" + reply["trace"])
        return reply["result"]

    def start(self, name, model, esamp=None, asynchronous=False, **options):
        config = {} if esamp is None else {"esamp": esamp}
        options = {"model": str(model), "additional_config": config} | options
        self.ask(do="start", engine=name, options=options, asynchronous=asynchronous)
        return Engine(self, name)

    def log(self):
        return self._log.read_text()

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Engine:
    """One engine."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self._name = name

    def play(self, *events):
        return self.host.ask(do="play", engine=self._name, events=list(events))

    def tokens(self, *events):
        """The samples' tokens of each request."""
        return {name: result["tokens"] for name, result in self.play(*events).items()}

    def stats(self):
        return self.host.ask(do="rpc", engine=self._name, method="esamp_stats", args=[])[0]

    def rpc(self, method, *args):
        return self.host.ask(do="rpc", engine=self._name, method=method, args=args)

    def call(self, function, **arguments):
        """Run a function of `probes.py` on the engine, inside its process."""
        path = f"tests.backends.vllm.probes:{function}"
        return self.host.ask(do="call", engine=self._name, function=path, arguments=arguments)


def add(name, prompt, step=0, beta=None, group=None, truncation=None, scope=None, **params):
    """A request: four seeded samples at temperature 1 of 16 tokens each, unless it says else."""
    extra = {"esamp_beta": beta, "esamp_group": group}
    extra |= {"esamp_truncation": truncation, "esamp_scope": scope}
    extra = {key: value for key, value in extra.items() if value is not None}
    defaults = {
        "n": 4,
        "seed": 1,
        "max_tokens": 16,
        "ignore_eos": True,
        "detokenize": False,
    }
    params = defaults | params | ({"extra_args": extra} if extra else {})
    return {"step": step, "add": name, "prompt": list(prompt), "params": params}


def abort(name, step):
    return {"step": step, "abort": name}
