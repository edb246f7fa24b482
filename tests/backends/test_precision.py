import pytest
import torch

from esamp.backends import precision
from esamp.backends.precision import choose_dtype
from esamp.errors import UsageError


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_device_has_it(monkeypatch, native):
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: native)
    assert choose_dtype("auto", "cpu") == ("bfloat16" if native else "float32")
    assert choose_dtype("auto", "cuda:0") == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_dtype("auto") == "bfloat16"


def test_what_is_asked_for_is_taken_and_unknown_ones_are_refused():
    assert choose_dtype("float16", "cpu") == "float16"
    with pytest.raises(UsageError, match="dtype is 'int8': give one of auto, bfloat16"):
        choose_dtype("int8")


def test_this_machine_can_be_asked():
    assert choose_dtype("auto", "cpu") in ("bfloat16", "float32")
