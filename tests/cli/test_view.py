import io

from rich.console import Console

from esamp.cli.view import SHADES, shade, show
from esamp.generation import Completion, Generation, Stats


class Words:
    def pieces(self, token_ids):
        return [f"w{token} " for token in token_ids]


def completion(novelty, tokens=(0, 1, 2, 3, 4, 5)):
    return Completion(
        text="", token_ids=tokens, finish_reason="length", logprobs=[-1.0] * 6, novelty=novelty
    )


def test_the_novel_stretch_has_the_darkest_shade_and_the_expected_one_none():
    (text,) = shade([completion([None, 0.1, 0.1, 0.1, 0.9, 0.9])], Words())
    styles = {text.plain[span.start : span.end].strip(): span.style for span in text.spans}
    assert text.plain == "w0 w1 w2 w3 w4 w5 "
    assert styles["w5"] == SHADES[-1]
    assert "w1" not in styles
    assert "w0" not in styles, "the first token is not steered and has no novelty"


def test_without_novelty_nothing_is_shaded_and_no_legend_shown():
    run = Generation(
        completions=[[completion(None)]],
        stats=Stats(tokens=6, seconds=1.0, distiller_error=[], nonfinite_rows=0),
    )
    console = Console(record=True, width=80, file=io.StringIO())
    show({"vanilla": run}, Words(), None, console)
    shown = console.export_text()
    assert "w0 w1 w2" in shown
    assert "shaded" not in shown
    assert "6 tokens, 6 per second" in shown


def test_diversity_is_written_under_the_samples():
    run = Generation(
        completions=[[completion([None] + [0.5] * 5)] * 2],
        stats=Stats(tokens=12, seconds=1.0, distiller_error=[1.0], nonfinite_rows=0),
    )
    console = Console(record=True, width=80, file=io.StringIO())
    show({"esamp": run}, Words(), {"esamp": {"vendi": 1.5, "similarity": 0.25}}, console)
    assert "Vendi score 1.50 of 2, mean similarity 0.25" in console.export_text()
