"""Write what cost.py has measured beside the model, as the tables of docs/cost.md.

python benchmarks/cost_tables.py benchmarks/results/cost-cpu.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from parts import PARTS, Part, Rates, carry, few, recursive, table, total, truncated

SAMPLES = 16
"""Rows of a group."""
VOCAB = 49_152
"""Of the head that is read twice; SmolLM2's."""
FEW = 100
"""Tokens of a row whose rows of the head are read: twice the top k of 50, to have room for ties."""
SHARED_ROWS = 256
"""Rows of one group that are absorbed in blocks of several sizes."""
BLOCKS = (16, 64, 256)
"""Sizes of them."""
STAGES = ("predict", "mix", "learn")


def beside(model: float, measured: float) -> str:
    """Write milliseconds of the model, those measured, and their ratio."""
    return f"{1e3 * model:.2f} / {1e3 * measured:.2f} ({measured / model:.2f})"


def of_stage(parts: list[Part], stage: str) -> list[Part]:
    """Return the parts that run in a stage."""
    return [part for part in parts if part.stage == stage]


def steps_table(data: dict[str, Any], rates: Rates) -> str:
    """Write model / measured (ratio) for each distiller and shape."""
    rows = []
    for each in data["steps"]:
        name, groups, hidden = each["distiller"], each["groups"], each["hidden"]
        parts = PARTS[name](hidden, groups * SAMPLES, groups)
        cells = [
            beside(total(of_stage(parts, stage), rates), each["seconds"][stage]) for stage in STAGES
        ]
        whole = beside(total(parts, rates), sum(each["seconds"].values()))
        rows.append([name, f"{groups} × {SAMPLES} × {hidden}", *cells, whole])
    return table(["distiller", "groups × rows × hidden", *STAGES, "all"], rows)


def shares_table(data: dict[str, Any]) -> str:
    """Write the measured share of each stage, in percent."""
    rows = []
    for each in data["steps"]:
        whole = sum(each["seconds"].values())
        shape = f"{each['groups']} × {SAMPLES} × {each['hidden']}"
        cells = [f"{100 * each['seconds'][stage] / whole:.0f}" for stage in STAGES]
        rows.append([each["distiller"], shape, *cells])
    return table(["distiller", "groups × rows × hidden", *STAGES], rows)


def parts_table(rates: Rates) -> str:
    """Write what the model says of the recursive distiller's parts, at 8 × 16."""
    columns = [recursive(hidden, 8 * SAMPLES, 8) for hidden in (576, 4096)]
    rows = []
    for small, large in zip(*columns, strict=True):
        row = [small.name, f"{small.kernels}"]
        for part, parts in ((small, columns[0]), (large, columns[1])):
            share = part.seconds(rates) / total(parts, rates)
            row += [f"{part.bytes / 1e6:.1f}", f"{part.flops / 1e6:.0f}", f"{100 * share:.0f}"]
        rows.append(row)
    head = [f"{what}, {hidden}" for hidden in (576, 4096) for what in ("MB", "MFLOP", "share, %")]
    return table(["part", "kernels", *head], rows)


def backends_table(data: dict[str, Any], rates: Rates) -> str:
    """Write model / measured (ratio) of what the backends add."""
    size, rows = data["engine_size"], []
    for each in data["backends"]:
        groups, hidden, seconds = each["groups"], each["hidden"], each["seconds"]
        count = groups * SAMPLES
        cells = [beside(carry("vllm", hidden, count, size).seconds(rates), seconds["vllm carry"])]
        for backend in ("vllm", "transformers"):
            model = total(truncated(backend, hidden, VOCAB, count, size), rates)
            cells.append(beside(model, seconds[f"{backend} truncated"]))
        model = total(few(hidden, VOCAB, count, FEW, size), rates)
        cells.append(beside(model, seconds["transformers few"]))
        rows.append([f"{groups} × {SAMPLES} × {hidden}", *cells])
    head = ["vLLM: carry", "vLLM: truncated", "Transformers: dense", "Transformers: few"]
    return table(["groups × rows × hidden", *head], rows)


def blocks_table(data: dict[str, Any], rates: Rates) -> str:
    """Write model / measured (ratio) of learning by the size of blocks."""
    rows = []
    for hidden in dict.fromkeys(each["hidden"] for each in data["blocks"]):
        cells = [
            beside(
                total(
                    of_stage(recursive(hidden, SHARED_ROWS, 1, block=each["block"]), "learn"), rates
                ),
                each["seconds"]["learn"],
            )
            for each in data["blocks"]
            if each["hidden"] == hidden
        ]
        rows.append([f"1 × {SHARED_ROWS} × {hidden}", *cells])
    return table(["groups × rows × hidden", *(f"blocks of {each}" for each in BLOCKS)], rows)


def tables(data: dict[str, Any]) -> list[str]:
    """Return the tables in the page's order."""
    rates = Rates(**data["rates"])
    return [
        parts_table(rates),
        steps_table(data, rates),
        shares_table(data),
        backends_table(data, rates),
        blocks_table(data, rates),
    ]


if __name__ == "__main__":
    data = json.loads(Path(sys.argv[1]).read_text())
    sys.stdout.write("\n\n".join(tables(data)) + "\n")
