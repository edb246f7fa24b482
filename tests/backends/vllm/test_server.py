"""A real server, as the README starts it, and real clients."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from .engines import needs_vllm

pytestmark = [needs_vllm, pytest.mark.engine, pytest.mark.model]

ROOT = Path(__file__).parents[3]
SERVE, CLIENT = re.findall(
    r"```(?:bash|python)\n((?:esamp demo-model|from openai).*?)```",
    (ROOT / "README.md").read_text(),
    re.S,
)
SMALL = (
    "--enforce-eager --dtype float32 --max-model-len 512 --kv-cache-memory-bytes 256M --port {port}"
)


class Server:
    """The server of the README's block, on a port of its own."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "log"
        settings = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "2",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = SERVE.strip() + " " + SMALL.format(port=self.port)
        self.process = subprocess.Popen(
            ["bash", "-euc", command],
            cwd=folder,
            env=os.environ | settings,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = f"http://localhost:{self.port}"
        deadline = time.monotonic() + 300
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(1)

    def answers(self):
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200
        except OSError:
            return False

    def metrics(self):
        """The four numbers, once they have settled."""
        time.sleep(1.2)
        text = urllib.request.urlopen(f"{self.url}/metrics").read().decode()
        return {
            name: float(value) for name, value in re.findall(r"^(esamp_\w+) (\S+)$", text, re.M)
        }

    def close(self):
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture
def client(server):
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def complete(client, xargs=None, **how):
    how = {"n": 2, "max_tokens": 8} | how
    extra = {} if xargs is None else {"extra_body": {"vllm_xargs": xargs}}
    return client.completions.create(model="smollm2", prompt="Once upon a", **how, **extra)


def test_the_readmes_client_gets_sixteen_steered_samples(server):
    before = server.metrics()["esamp_rows_steered_total"]
    code = CLIENT.replace("localhost:8000", f"localhost:{server.port}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n- ") + 1 >= 16
    after = server.metrics()
    assert after["esamp_rows_steered_total"] > before
    assert 0 < after["esamp_distiller_error"] < 1
    assert after["esamp_groups_open"] == 0
    assert after["esamp_rows_fallback_total"] == 0


@pytest.mark.parametrize(
    ("xargs", "message"),
    [
        ({"esamp_beta": "x"}, "esamp_beta is 'x': give a number from 0 (off) to 4"),
        ({"esamp_beta": -0.5}, "esamp_beta is -0.5: give a number from 0"),
        ({"esamp_beta": 4.5}, "esamp_beta is 4.5: give a number from 0"),
        ({"esamp_betta": 0.5}, "'esamp_betta' is no key of esamp: give one of esamp_beta"),
        ({"esamp_group": "g" * 10_000}, "give text of 1 to 128 bytes"),
        ({"esamp_truncation": "none"}, "give reference or fused"),
        ({"esamp_scope": "all"}, "give one of prompt, shared, sample"),
        ({"esamp_scope": "shared", "esamp_group": "g"}, "exclude each other"),
    ],
)
def test_wrong_values_are_a_bad_request_with_a_sentence(client, server, xargs, message):
    import openai

    body = {"vllm_xargs": xargs}
    messages = [{"role": "user", "content": "hello"}]
    asks = [
        lambda: complete(client, xargs),
        lambda: client.chat.completions.create(
            model="smollm2", messages=messages, max_tokens=4, extra_body=body
        ),
        lambda: client.responses.create(
            model="smollm2", input="hello", max_output_tokens=4, extra_body=body
        ),
    ]
    for ask in asks:
        with pytest.raises(openai.BadRequestError) as refused:
            ask()
        assert message in str(refused.value)
    assert len(complete(client).choices) == 2
    assert server.answers()


def test_other_keys_are_other_peoples(client):
    assert len(complete(client, {"their_key": 1, "esamp_beta": 0.5}).choices) == 2


def test_a_client_that_leaves_ends_its_group(client, server):
    stream = complete(client, {"esamp_beta": 1.0}, n=4, max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    for _ in range(20):
        if server.metrics()["esamp_groups_open"] == 0:
            break
    assert server.metrics()["esamp_groups_open"] == 0
    assert len(complete(client, {"esamp_beta": 1.0}).choices) == 2


def test_structured_output_stays_valid(client):
    answer = client.completions.create(
        model="smollm2",
        prompt="Yes or no?",
        n=8,
        max_tokens=8,
        extra_body={
            "vllm_xargs": {"esamp_beta": 2.0},
            "structured_outputs": {"choice": ["yes", "no"]},
        },
    )
    assert {choice.text for choice in answer.choices} <= {"yes", "no"}
