import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.evals.statistics import Interval
from esamp.report.arms import label_arms, marks
from esamp.report.frontier import Box, frontier
from esamp.report.lines import MOST_POINTS, Line, panels
from esamp.report.runs import Arm
from esamp.report.svg import Axis, Scale, mark, path, spread, tag
from esamp.report.tables import picture, significant, span

finite = st.floats(-1e4, 1e4)


def numbers_of(drawing):
    return [float(each) for each in re.findall(r"-?\d+\.?\d*", drawing)]


def test_text_and_attributes_are_escaped():
    assert tag("text", "<script>&", x='"') == '<text x="&#34;">&lt;script&gt;&amp;</text>'


@pytest.mark.parametrize("log", [False, True])
def test_a_scale_goes_from_end_to_end(log):
    scale = Scale(low=2.0, high=32.0, start=10.0, end=110.0, log=log)
    assert (scale(2.0), scale(32.0)) == (10.0, 110.0)
    assert scale(8.0) == pytest.approx(60.0 if log else 30.0)


@given(st.lists(finite, min_size=1, max_size=8), st.booleans(), st.integers(3, 9))
def test_an_axis_holds_its_values_and_has_few_round_ticks(values, zero, count):
    axis = Axis(title="", zero=zero)
    scale = axis.scale(values, 0.0, 100.0)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    ticks = axis.ticks(scale, count)
    assert len(ticks) <= 3 * count
    assert all(scale.low - 1e-6 <= tick <= scale.high + 1e-6 for tick in ticks)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=8))
def test_a_log_axis_has_ticks(values):
    axis = Axis(title="", log=True)
    scale = axis.scale(values, 0.0, 100.0)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    assert len(axis.ticks(scale, 5)) >= 2


@given(st.lists(st.floats(0, 100), max_size=7))
def test_names_at_the_ends_of_lines_keep_apart_and_in_order(wanted):
    places = spread(wanted, 0.0, 100.0, gap=13.0)
    ordered = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert all(b - a >= 13 - 1e-6 for a, b in pairwise(ordered))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)


def test_names_that_have_room_stay_where_they_are():
    assert spread([50.0, 10.0], 0.0, 100.0) == [50.0, 10.0]


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "diamond", "wedge", "hexagon"])
def test_marks_stand_around_their_point(shape):
    drawn = mark(shape, 100.0, 50.0, 5.0, class_="dot")
    if shape == "circle":
        assert 'cx="100" cy="50" r="5"' in drawn
    else:
        found = numbers_of(re.search(r' d="M([^"]*)Z"', drawn)[1])
        across, down = found[::2], found[1::2]
        assert sum(across) / len(across) == pytest.approx(100, abs=0.1)
        assert sum(down) / len(down) == pytest.approx(50, abs=0.1)


def test_a_picture_is_strong_only_where_the_interval_is_clear_of_none():
    clear, open_ = Interval(value=1.2, low=1.1, high=1.3), Interval(value=1.1, low=0.9, high=1.3)
    scale = span([clear, open_], 1.0)
    drawn = marks(label_arms(["fire"]))["fire"]
    assert "span sure" in picture(clear, scale, 1.0, drawn)
    assert "span unsure" in picture(open_, scale, 1.0, drawn)
    assert scale(1.0) == pytest.approx((scale.start + scale.end) / 2)


def lines_of(points):
    labels = label_arms(list(points))
    lines = [Line(label=labels[name], points=values) for name, values in points.items()]
    axes = (Axis(title="k"), Axis(title="share"))
    return panels("p", "Share", axes, lines, marks(labels))


def test_lines_break_where_nothing_is_defined_and_keep_their_last_point():
    values = [(float(x), Interval(value=None if x == 40 else 1.0)) for x in range(1, 81)]
    (panel,) = lines_of({"fire": values})
    (data,) = re.findall(r'd="([^"]*)" class="line', panel)
    assert data.count("M") == 2
    assert "1 at 80" in panel
    many = [(float(x), Interval(value=1.0)) for x in range(1, 1001)]
    (panel,) = lines_of({"fire": many})
    (data,) = re.findall(r'd="([^"]*)" class="line', panel)
    assert data.count("L") < MOST_POINTS
    assert "1 at 1000" in panel


def test_one_panel_a_family_with_the_others_behind_and_vanilla_named():
    value = [(1.0, Interval(value=0.1)), (2.0, Interval(value=0.2))]
    found = lines_of(
        {"vanilla": value, "fire": value, "noise": value, "min-p": [(1.0, Interval())]}
    )
    assert len(found) == 3  # min-p has nothing to show
    assert [panel.count(">vanilla</text>") for panel in found] == [0, 1, 1]
    assert ["<use" in panel for panel in found] == [False, True, True]
    assert lines_of({"min-p": [(1.0, Interval())]}) == []


def arm(name, perplexity, vendi):
    nothing = Interval()
    shown = {"E": Interval(value=vendi, low=vendi - 0.1, high=vendi + 0.1)}
    measured = {"S": Interval(value=perplexity, low=perplexity * 0.9, high=perplexity * 1.1)}
    mappings = ["pass_at_k", "maj_at_k", "vendi_orders", "similarity", "distinct_n", "dynamics"]
    empty = {key: {} for key in mappings}
    single = dict.fromkeys(
        ["distinct_answers", "self_bleu", "entropy", "kl", "tokens_per_sample", "finished"], nothing
    )
    return Arm(
        name=name, temperature=1.0, vendi=shown, perplexity=measured, distiller_error=[],
        novelty=[], **empty, **single,
    )  # fmt: skip


def frontier_of(arms):
    labels = label_arms([each.name for each in arms])
    return frontier("f", arms, ("E", "S"), labels, marks(labels))


def test_the_frontier_has_the_curve_by_perplexity_points_and_names():
    arms = [arm("vanilla", 20.0, 9.0), arm("vanilla(temperature=0.7)", 5.0, 6.0),
            arm("vanilla(temperature=0.8)", 10.0, 7.0), arm("fire", 12.0, 8.0)]  # fmt: skip
    drawn = frontier_of(arms)
    ElementTree.fromstring(f"<div>{drawn}</div>")
    (curve, _) = re.findall(r'd="([^"]*)" class="curve"', drawn)
    across = numbers_of(curve)[::2]
    assert across == sorted(across)
    assert across[2] - across[1] == pytest.approx(across[1] - across[0], abs=0.2)  # equal ratios
    for name in ("T 1", "T 0.7", "T 0.8", "fire"):
        assert drawn.count(f">{name}</text>") == 2
    assert "fire: Vendi 8 (7.9 to 8.1), perplexity 12 (10.8 to 13.2)" in drawn


def test_names_do_not_cover_each_other():
    arms = [arm(f"method{place}", 10.0 + 0.3 * place, 7.0 + 0.05 * place) for place in range(12)]
    drawn = frontier_of(arms).partition('class="only-narrow"')[0]
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label[^"]*">([^<]+)<', drawn)
    boxes = [
        Box(
            left=float(x),
            top=float(y) - 10,
            right=float(x) + 6.0 * len(name),
            bottom=float(y) + 2,
        )
        for x, y, name in found
    ]
    assert len(boxes) == 12
    for place, box in enumerate(boxes):
        assert all(box.overlap(other) < 8 for other in boxes[:place])


def test_without_two_points_there_is_no_frontier():
    assert frontier_of([arm("vanilla", 20.0, 9.0)]) is None


def test_numbers_and_paths_are_written_shortly():
    assert [significant(each) for each in (0.1234, 5.0, 12.34, 123.4)] == [
        "0.123", "5.00", "12.3", "123"
    ]  # fmt: skip
    assert path([(1.0, 2.04), (3.14159, 4.0)]) == "M1 2L3.1 4"
