"""`import esamp` costs torch and nothing else that is heavy."""

import subprocess
import sys

HEAVY = {"transformers", "vllm", "sentence_transformers", "scipy", "sklearn", "typer", "rich"}


def heavy_modules_after(statement):
    """Which heavy packages a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "sys" in loaded
    return HEAVY & set(loaded)


def test_importing_esamp_loads_no_engine_and_no_extra():
    assert heavy_modules_after("import esamp") == set()


def test_nor_do_the_baselines_and_the_measures():
    assert heavy_modules_after("import esamp.baselines, esamp.evals.metrics") == set()


def test_the_backend_is_loaded_when_it_is_asked_for_so_this_check_can_fail():
    assert "transformers" in heavy_modules_after("import esamp; esamp.generate")
