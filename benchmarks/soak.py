"""Send thousands of mixed requests to a real server, and check what must hold; `make soak`.

    python benchmarks/soak.py [--requests 2000] [--concurrency 64] [--seed 1] [--quick]

Starts `vllm serve` with the demo model and esamp armed, with fewer groups than are asked for at
times, and a cache so small that requests are preempted. Prints what was sent and what was found;
exits with 1 and a line per failed check, and then leaves the server's log.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from esamp.backends.precision import choose_dtype
from esamp.cli.backend import demo_model

QUICK = 150
START_SECONDS, REQUEST_SECONDS, STOP_SECONDS = 300, 180, 30
MOST_WRONG = 50
"""After which the rest is not sent."""
FLUSH_SECONDS, MOST_READS = 3, 20
"""The workers' totals are written twice a second."""
MEMORY_SHARE, MEMORY_BYTES = 0.05, 30e6
"""What the second half may add to the server's memory."""
DTYPE = choose_dtype("auto")
KV_BYTES = 46 << (21 if DTYPE == "float32" else 20)
OPTIONS = {
    "--dtype": DTYPE,
    "--served-model-name": "demo",
    "--additional-config": '{"esamp": {"max_groups": 24}}',
    "--max-model-len": "512",
    "--max-num-seqs": "64",
    # 23 kB a token (46 kB in fp32): four requests of 512 tokens fit, and 64 of 33 do not.
    "--block-size": "32",
    "--kv-cache-memory-bytes": str(KV_BYTES),
}
FORBIDDEN = ("esamp: this step goes on plainly", "Traceback")
"""What no line of the server's log may hold."""
METRICS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "esamp_groups_open": ("0", lambda value: value == 0),
    "esamp_rows_steered_total": ("> 0", lambda value: value > 0),
    "esamp_rows_fallback_total": ("> 0", lambda value: value > 0),
    "esamp_distiller_error": ("< 1", lambda value: value < 1),
    "vllm:num_preemptions_total": ("> 0", lambda value: value > 0),
}
"""What the server must say of itself at the end."""

WORDS = ("a", "the", "old", "sea", "light", "keeper", "storm", "of", "and", "who", "wrote")
BETAS = (0.1, 0.25, 0.5, 1, 2, 4)
TRUNCATIONS = ({"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}, {"top_p": 0.95, "min_p": 0.02})
BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("esamp_beta", {"esamp_beta": value}) for value in ("x", -1, 9, [1])),
    ("esamp_strength", {"esamp_strength": 0.25}),
    ("esamp_group", {"esamp_beta": 0.25, "esamp_group": "g" * 10_000}),
    ("esamp_truncation", {"esamp_beta": 0.25, "esamp_truncation": "none"}),
    ("esamp_group", {"esamp_beta": 0.25, "esamp_group": "g", "esamp_scope": "shared"}),
)
"""The key that a refusal must name, and what is refused."""
Ending = Literal["whole", "stream", "disconnect", "cancel", "refused"]
Result = Literal["answered", "cut off", "refused", "wrong"]
RESULTS: tuple[Result, ...] = get_args(Result)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request, and what is to come of it."""

    kind: str
    path: str
    body: dict[str, Any]
    ending: Ending
    names: str
    """The key that a refusal must name."""
    patience: float
    """After how many seconds (cancel) or events (disconnect) the client leaves."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a request."""

    kind: str
    result: Result
    problem: str = ""


@dataclass(frozen=True)
class Finding:
    """One check."""

    name: str
    found: str
    holds: bool


@contextmanager
def serving(log: Path) -> Iterator[tuple[psutil.Popen, str]]:
    """Run a server, and end it whatever happens; give its first process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", demo_model()]
    command += ["--enforce-eager", "--host", "127.0.0.1", "--port", port]
    command += [word for option in OPTIONS.items() for word in option]
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("ESAMP_")}
    settings = {
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(os.cpu_count()),
    }
    with log.open("w") as sink:
        output = {"stdout": sink, "stderr": sink, "env": inherited | settings}
        started = psutil.Popen(command, start_new_session=True, **output)
    try:
        wait_for_health(started, f"http://127.0.0.1:{port}")
        yield started, f"http://127.0.0.1:{port}"
    finally:
        stop(started)


def wait_for_health(started: psutil.Popen, url: str) -> None:
    """Return when the server answers.

    Raises:
        SystemExit: It ended, or takes too long.
    """
    last = time.monotonic() + START_SECONDS
    while started.poll() is None and time.monotonic() < last:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return
        time.sleep(1)
    raise SystemExit("FAILED: the server ends before it answers, or takes too long; see its log")


def stop(started: psutil.Popen) -> None:
    """End a server and all processes that it started."""
    try:
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            started.terminate()
            started.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def resident(started: psutil.Popen) -> int:
    """Return the bytes that a server and all processes that it started hold in memory."""
    with suppress(psutil.NoSuchProcess):
        return sum(each.memory_info().rss for each in [started, *started.children(recursive=True)])
    return 0


def body(random: Random, esamp: dict[str, Any] | None = None, **also: Any) -> dict[str, Any]:
    """Return a request for a few short texts; steered, unless `esamp` is None."""
    request: dict[str, Any] = {
        "model": "demo",
        "prompt": " ".join(random.choices(WORDS, k=random.choice((3, 8, 14, 20, 22, 25, 28, 80)))),
        "max_tokens": random.choice((4, 4, 8, 8, 12, 16, 32)),
        "n": random.choice((1, 1, 1, 2, 3, 4)),
        "temperature": random.choice((0.7, 1.0, 1.3)),
    }
    if esamp is not None:
        request["vllm_xargs"] = {"esamp_beta": random.choice(BETAS)} | esamp
    return request | also


GOOD: dict[str, tuple[int, Callable[[Random], dict[str, Any]]]] = {
    "plain": (12, body),
    "steered": (16, lambda r: body(r, {})),
    "top_p, top_k, min_p": (9, lambda r: body(r, {}, **r.choice(TRUNCATIONS))),
    "repetition_penalty": (6, lambda r: body(r, {}, repetition_penalty=1.2)),
    "fused truncation": (6, lambda r: body(r, {"esamp_truncation": "fused"}, top_p=0.9)),
    "shared group": (6, lambda r: body(r, {"esamp_group": f"group {r.randrange(6)}"})),
    "scope shared": (2, lambda r: body(r, {"esamp_scope": "shared"})),
    "scope sample": (8, lambda r: body(r, {"esamp_scope": "sample"}, n=4)),
    "greedy": (5, lambda r: body(r, {}, temperature=0, n=1)),
    "seeded": (5, lambda r: body(r, {}, seed=r.randrange(2**31))),
    "log-probabilities": (4, lambda r: body(r, {}, logprobs=2, prompt_logprobs=1)),
    "chat": (4, lambda r: body(r, {})),
}
"""Requests that are right, and how many of about a hundred are of each kind."""
ENDINGS: dict[Ending, int] = {"stream": 6, "disconnect": 5, "cancel": 5, "refused": 6}
"""How many of about a hundred end otherwise than with one whole answer, of whatever kind."""


def make_cases(count: int, seed: int) -> list[Case]:
    """Return what is sent; the same for the same seed."""
    random = Random(seed)
    kinds = {kind: weight for kind, (weight, _) in GOOD.items()}
    endings: dict[Ending, int] = {"whole": sum(kinds.values()), **ENDINGS}
    drawn = random.choices(list(kinds), list(kinds.values()), k=count)
    ends = random.choices(list(endings), list(endings.values()), k=count)
    return [make_case(random, *each) for each in zip(drawn, ends, strict=True)]


def make_case(random: Random, kind: str, ending: Ending) -> Case:
    """Return a request of a kind that ends in a way."""
    path, sent, names = "/v1/completions", GOOD[kind][1](random), ""
    if kind == "chat":
        path = "/v1/chat/completions"
        sent["messages"] = [{"role": "user", "content": sent.pop("prompt")}]
    if ending == "refused":
        names, sent["vllm_xargs"] = random.choice(BAD)
    if ending in ("disconnect", "cancel"):
        sent["max_tokens"] = 32
    if ending in ("stream", "disconnect"):
        sent["stream"] = True
        sent.pop("prompt_logprobs", None)  # vLLM refuses it in a stream
    patience = random.randint(1, 12) / (4 if ending == "cancel" else 1)
    name = kind if ending == "whole" else ending
    return Case(kind=name, path=path, body=sent, ending=ending, names=names, patience=patience)


async def send(client: httpx.AsyncClient, case: Case) -> Outcome:
    """Send one request and judge what comes back."""
    seconds = case.patience if case.ending == "cancel" else REQUEST_SECONDS
    try:
        async with asyncio.timeout(seconds):
            result = await (stream if case.body.get("stream") else ask)(client, case)
        return Outcome(kind=case.kind, result=result)
    except TimeoutError:
        if case.ending == "cancel":
            return Outcome(kind=case.kind, result="cut off")
        problem = f"no answer within {seconds} s"
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    problem += f", to {json.dumps(case.body)[:400]}"
    return Outcome(kind=case.kind, result="wrong", problem=problem)


async def ask(client: httpx.AsyncClient, case: Case) -> Result:
    """Send a request and read its whole answer; anything raised is what is wrong with it."""
    answer = await client.post(case.path, json=case.body)
    if answer.status_code != (400 if case.ending == "refused" else 200):
        raise ValueError(f"HTTP {answer.status_code} {answer.text[:200]}")
    said = answer.json()
    if case.ending != "refused":
        check_ends({each["index"]: each["finish_reason"] for each in said["choices"]}, case)
        return "answered"
    message = said["error"]["message"]
    if case.names not in message or " " not in message or len(message) > 500:
        raise ValueError(f"no sentence that names {case.names}: {message[:200]}")
    return "refused"


async def stream(client: httpx.AsyncClient, case: Case) -> Result:
    """Read a stream to its end, or leave midway; anything raised is what is wrong with it."""
    reasons, events = dict[int, str | None](), 0
    async with client.stream("POST", case.path, json=case.body) as answer:
        if answer.status_code != 200:
            raise ValueError(f"HTTP {answer.status_code} {(await answer.aread())[:200]!r}")
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                check_ends(reasons, case)
                return "answered"
            if line:
                event = json.loads(line.removeprefix("data: "))
                reasons |= {each["index"]: each["finish_reason"] for each in event["choices"]}
                events += 1
            if case.ending == "disconnect" and events >= case.patience:
                return "cut off"
    raise ValueError("the stream ends without [DONE]")


def check_ends(reasons: dict[int, str | None], case: Case) -> None:
    """Raise where not all choices are there and have ended."""
    if set(reasons) != set(range(case.body["n"])) or not all(reasons.values()):
        raise ValueError(f"of {case.body['n']} choices these ended: {reasons}")


async def send_all(client: httpx.AsyncClient, cases: Sequence[Case], most: int) -> list[Outcome]:
    """Send requests, so many at a time."""
    waiting, outcomes, start = iter(cases), list[Outcome](), time.monotonic()

    async def work() -> None:
        for case in waiting:
            if sum(each.result == "wrong" for each in outcomes) >= MOST_WRONG:
                return
            outcomes.append(await send(client, case))
            if len(outcomes) % 50 == 0 or len(outcomes) == len(cases):
                seconds = time.monotonic() - start
                print(f"{len(outcomes)} of {len(cases)}, {seconds:.0f} s", file=sys.stderr)

    await asyncio.gather(*(work() for _ in range(most)))
    return outcomes


async def read(client: httpx.AsyncClient, path: str) -> tuple[str, str]:
    """Return the status and the text of a page of the server, also of one that is gone."""
    try:
        answer = await client.get(path, timeout=30)
    except httpx.TransportError as error:
        return type(error).__name__, ""
    return f"HTTP {answer.status_code}", answer.text


async def read_metrics(client: httpx.AsyncClient) -> Counter[str]:
    """Return the server's metrics, summed over labels, once nothing runs and all is written."""
    idle = 0
    for _ in range(MOST_READS):
        metrics = Counter[str]()
        for metric in text_string_to_metric_families((await read(client, "/metrics"))[1]):
            for sample in metric.samples:
                metrics[sample.name] += sample.value
        busy = metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"]
        idle = 0 if busy else idle + 1
        if idle == 2:
            break
        await asyncio.sleep(FLUSH_SECONDS)
    return metrics


async def soak(
    started: psutil.Popen, url: str, cases: Sequence[Case], concurrency: int
) -> tuple[list[Outcome], list[Finding]]:
    """Send everything, in two halves, and look at the server."""
    half, outcomes, memory = len(cases) // 2, list[Outcome](), list[int]()
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None) as client:
        for part in (cases[:half], cases[half:]):
            outcomes += await send_all(client, part, concurrency)
            metrics = await read_metrics(client)
            memory.append(resident(started))
        health, _ = await read(client, "/health")
    wrong = [f"{each.kind}: {each.problem}" for each in outcomes if each.result == "wrong"]
    sizes = " and ".join(f"{each / 1e6:.0f} MB" for each in memory)
    flat = 0 < memory[1] <= memory[0] * (1 + MEMORY_SHARE) + MEMORY_BYTES
    findings = [
        Finding("wrong outcomes", "; ".join([f"{len(wrong)}", *wrong[:3]]), not wrong),
        Finding("health at the end", health, health == "HTTP 200"),
        Finding("memory after each half is flat", sizes, flat),
    ]
    for name, (wanted, holds) in METRICS.items():
        value = metrics.get(name, float("nan"))
        findings.append(Finding(f"{name} {wanted}", f"{value:g}", holds(value)))
    return outcomes, findings


def judge_log(log: Path) -> Iterator[Finding]:
    """Look for what must not be in the log."""
    lines = log.read_text(errors="replace").splitlines()
    for text in FORBIDDEN:
        hits = [line for line in lines if text in line]
        found = "; first: ".join([f"{len(hits)} times", *hits[:1]])
        yield Finding(f'"{text}" in the log', found, not hits)


def show(outcomes: Iterable[Outcome], findings: Iterable[Finding]) -> None:
    """Print what was sent and what was found."""
    counts = Counter((each.kind, each.result) for each in outcomes)
    print(f"| sent | {' | '.join(RESULTS)} |\n|---|{'---|' * len(RESULTS)}")
    for kind in [*GOOD, *ENDINGS]:
        print(f"| {kind} | {' | '.join(str(counts[kind, result]) for result in RESULTS)} |")
    print("\n| check | found | |\n|---|---|---|")
    for finding in findings:
        print(f"| {finding.name} | {finding.found} | {'' if finding.holds else 'FAILED'} |")


def main() -> None:
    """Start a server, send, check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("--requests", 2000), ("--concurrency", 64), ("--seed", 1)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--quick", action="store_true", help=f"send {QUICK} requests")
    given = parser.parse_args()
    cases = make_cases(QUICK if given.quick else given.requests, given.seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    log = Path(tempfile.mkstemp(prefix="soak-", suffix=".log")[1])
    print(f"the server's log is {log}", file=sys.stderr)
    with serving(log) as (started, url):
        outcomes, findings = asyncio.run(soak(started, url, cases, given.concurrency))
        findings += judge_log(log)  # vLLM's own end may log a traceback
    show(outcomes, findings)
    print(f"\n{len(outcomes)} requests in {time.monotonic() - start:.0f} s, start and end included")
    failed = [f"FAILED: {each.name}: {each.found}" for each in findings if not each.holds]
    if failed:
        sys.exit("\n".join(failed))
    log.unlink()


if __name__ == "__main__":
    main()
