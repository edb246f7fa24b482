import pytest

from .engines import Host
from .models import save


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random Qwen2 with a head of its own."""
    return save("qwen2", tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Starts processes for engines, and ends them with the module."""
    running = []

    def start(**environment):
        running.append(Host(tmp_path_factory.mktemp("host") / "log", **environment))
        return running[-1]

    yield start
    for host in running:
        host.close()
