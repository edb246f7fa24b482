import base64
import hashlib
import json
import re
from html import escape, unescape
from html.parser import HTMLParser

import pytest

from esamp.errors import UsageError
from esamp.report.build import build_report
from evals.runs import run_in
from report.fixtures import ESAMP, VANILLA, config, nothing, sample, summary, write_run

SMALL = [*VANILLA[:3], *ESAMP[:2], "min-p"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \" ' </mark> {{ 7*7 }}"


class Reader(HTMLParser):
    """Elements and tables of a page, by the rules of HTML."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text += data


def rows_of(page, title):
    """The body of the table under a heading, as lists of text."""
    table = page.partition(f">{title}</h4>")[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return {
        re.sub(r"<[^>]+>|&nbsp;|\s", "", row[0]): [
            " ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row[1:]
        ]
        for row in cells
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    verifiable = write_run(folder / "gcd", summary(SMALL, verifiable=True, steps=12))
    return build_report([write_run(folder / "open", summary(SMALL, steps=12)), verifiable])


@pytest.fixture
def page_of(tmp_path):
    def build(data=None, **changes):
        data = summary(SMALL, steps=12) if data is None else data
        return build_report([write_run(tmp_path / "run", data, **changes)])

    return build


def test_tables_hold_the_numbers_of_the_summary(page_of):
    data = summary(SMALL, verifiable=True, steps=12)
    data["arms"][3] |= {
        "pass_at_k": {"1": {"value": 0.1234, "low": 0.05, "high": 0.2}, "2": nothing()},
        "perplexity": {"own": {"value": 12.345, "low": 11.0, "high": 14.0}},
        "kl": {"value": 0.25, "low": None, "high": None},
    }
    data["frontier"][0] |= {"lift": 1.0567, "low": 1.01, "high": 1.1}
    data["comparisons"][0] |= {"difference": -0.0312, "low": -0.06, "high": 0.01}
    page = page_of(data)
    arm = data["arms"][3]["arm"]
    answers = rows_of(page, "Right answers")[arm]
    assert answers[:2] == ["12.3 5.0 to 20.0", "–"]
    assert rows_of(page, "Decoding")[arm][2] == "0.250"
    assert "12.3 11.0 to 14.0" in rows_of(page, "Diversity and quality")[arm]
    assert rows_of(page, "Lift: Vendi score over vanilla’s")[arm][0] == "1.06 1.01 to 1.10"
    shown = rows_of(page, "Difference from vanilla(temperature=0.8)")[arm][0]
    assert shown == "−3.1 −6.0 to +1.0"


def test_the_verdict_counts_whole_intervals_only(page_of):
    data = summary(SMALL, steps=12)
    pairs = list({(each["embedder"], each["scorer"]) for each in data["frontier"]})
    spans = {"esamp": (1.01, 1.2), "esamp(beta=0.5)": (0.99, 1.2), "min-p": (0.8, 0.99)}
    for each in data["frontier"]:
        low, high = spans[each["arm"]]
        each |= {"lift": (low + high) / 2, "low": low, "high": high}
    # One reader does not agree.
    data["frontier"][0] |= {"low": 0.9}
    page = page_of(data)
    curve = "above vanilla’s temperature curve"
    assert f"Clearly {curve} by every embedder and scorer: no arm." in page
    assert f"Clearly {curve}, but not by every embedder and scorer: esamp." in page
    assert "Clearly below it by every embedder and scorer: min-p." in page
    assert len(pairs) == 4


def test_what_cannot_be_concluded_is_there(both):
    assert "about 4 of them miss by chance alone" in both


def test_several_runs_have_a_section_each_and_a_table_of_all(both):
    reader = Reader(both)
    assert {"together", "run1", "run2"} <= set(reader.ids)
    assert "1. open-ended" in both
    assert "2. reasoning-gym:gcd" in both
    shared = rows_of(both, "Vendi, all-MiniLM-L6-v2")
    assert [len(row) for row in shared.values()] == [2] * len(SMALL)
    assert ">pass@1</h4>" not in both  # one of the two has it


def test_ids_are_unique_and_links_lead_somewhere(both):
    reader = Reader(both)
    assert len(reader.ids) == len(set(reader.ids))
    links = [attrs["href"] for tag, attrs in reader.tags if tag in ("a", "use")]
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(reader.ids)
    named = [
        attrs["aria-labelledby"].split() for _, attrs in reader.tags if "aria-labelledby" in attrs
    ]
    assert {name for names in named for name in names} <= set(reader.ids)


def test_plots_have_titles_and_nothing_is_loaded_or_run(both):
    reader = Reader(both)
    drawings = [attrs for tag, attrs in reader.tags if tag == "svg"]
    assert all(each.get("role") == "img" or each.get("aria-hidden") for each in drawings)
    assert not {"script", "iframe", "img", "object", "embed"} & {tag for tag, _ in reader.tags}
    given = [(name, value) for _, attrs in reader.tags for name, value in attrs.items()]
    assert not [name for name, _ in given if name.startswith("on") or name == "style"]
    assert [value for name, value in given if name in ("src", "href") and value[0] != "#"] == [
        "data:,"
    ]
    assert "http" not in re.sub(r"http-equiv", "", both)


def test_the_policy_allows_the_style_sheet_and_nothing_else(both):
    style = re.search(r"<style>(.*?)</style>", both, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', both)[1])
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy


def test_the_same_runs_give_the_same_bytes(tmp_path):
    first, second = (write_run(tmp_path / name / "run", summary(SMALL)) for name in "ab")
    assert build_report([first]) == build_report([second])


def test_hostile_text_is_shown_as_text(tmp_path):
    data = summary(SMALL[:5], verifiable=True, steps=4)
    data |= {"task": HOSTILE, "model": HOSTILE, "cannot_conclude": [HOSTILE]}
    # Not the names that methods are known by, which are checked where they are read.
    folder = write_run(tmp_path / "run", data)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line["samples"][0] = sample(HOSTILE + " \x00\x1b[31m \ud800 \u202e end")
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grades = (folder / "grades.jsonl").read_text().replace('"7"', json.dumps(HOSTILE))
    (folder / "grades.jsonl").write_text(grades)
    (folder / "environment.json").write_text(json.dumps({"python": HOSTILE}))
    page = build_report([folder])
    reader = Reader(page)
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert reader.text.count("alert(1)") > 5 + 4
    assert "{{ 7*7 }}" in reader.text
    assert escape(HOSTILE, quote=False)[:40] in page
    assert "\x00" not in page
    assert "␀␛[31m" in page
    page.encode()


def test_an_arm_of_another_version_with_a_strange_name_is_shown(page_of):
    data = summary(SMALL, steps=4)
    data["arms"][-1]["arm"] = "min-<b>p</b>(x=[1,2"
    data["frontier"] = []
    assert "min-&lt;b&gt;p&lt;/b&gt;(" in page_of(data, **{"config.json": config(summary(SMALL))})


def test_a_private_task_shows_identifiers_only(tmp_path):
    data = summary(SMALL, verifiable=True, private=True, steps=4)
    folder = write_run(tmp_path / "run", data)
    secret = (folder / "samples.jsonl").read_text().replace("lighthouse", "SECRET")
    (folder / "samples.jsonl").write_text(secret)
    grades = (folder / "grades.jsonl").read_text().replace('"7"', '"SECRET"')
    (folder / "grades.jsonl").write_text(grades)
    page = build_report([folder])
    assert "SECRET" not in page
    assert "keeper" not in page
    assert "item-0, item-1" in page
    assert rows_of(page, "Right answers")


@pytest.mark.parametrize("private", [None, 0, "false"])
def test_only_a_plain_false_lets_text_through(page_of, private):
    data = summary(SMALL, steps=4)
    stored = config(data)
    data["private"] = private
    with pytest.raises(UsageError, match="private is"):
        page_of(data, **{"config.json": stored})


def test_a_run_that_is_private_by_its_configuration_is_private(page_of):
    data = summary(SMALL, steps=4)
    stored = config(data, private=True)
    assert "keeper" not in page_of(data, **{"config.json": stored})


def test_missing_parts_leave_out_their_section(page_of):
    data = summary(["vanilla", "esamp"], steps=4)
    for arm in data["arms"]:
        arm |= {"vendi": {}, "vendi_orders": {}, "similarity": {}, "perplexity": {}, "kl": None}
        arm |= {"distiller_error": None, "novelty": None, "dynamics": {}, "self_bleu": nothing()}
        arm |= {"entropy": {"value": 2.0, "low": None, "high": None}}
    data |= {"frontier": [], "comparisons": [], "cannot_conclude": []}
    page = page_of(data)
    for title in ("Frontier", "Right answers", "Sweeps", "Dynamics", "What the distiller learns"):
        assert f">{title}</h3>" not in page
    assert "No arm could be set against vanilla" in page
    assert rows_of(page, "Decoding")["esamp"][1] == "2.00"
    assert "self-BLEU" not in page
    assert "None" not in Reader(page).text


def test_an_arm_outside_the_range_has_no_lift_and_says_so(page_of):
    data = summary([*SMALL, "frequency-penalty"], steps=4)
    row = rows_of(page_of(data), "Lift: Vendi score over vanilla’s")["frequency-penalty"]
    assert row == ["none out of range"] * 4


def test_an_arm_whose_length_differs_is_marked(page_of):
    page = page_of(summary([*VANILLA[:3], "esamp", "esamp(beta=1)"], steps=4))
    rows = rows_of(page, "Lift: Vendi score over vanilla’s")
    assert [name for name in rows if "lengthdiffers" in name] == [
        "esamp(beta=1)lengthdiffersbymorethan5%"
    ]


def test_an_arm_that_repeats_itself_is_marked(page_of):
    page = page_of(summary([*VANILLA[:3], "esamp", "esamp(beta=0.5)"], steps=4))
    rows = rows_of(page, "Lift: Vendi score over vanilla’s")
    assert [name for name in rows if "repeats" in name] == ["esamp(beta=0.5)repeatsitself"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no run folder"),
        ("summary.json", None, "its run is not complete"),
        ("summary.json", "{", "cannot be read"),
        ("summary.json", "[]", "no JSON object"),
        ("summary.json", "{}", "no 'task'"),
        ("config.json", '{"format": 99}', "has format 99"),
        ("config.json", '{"format": 1}', "not what this version of esamp writes"),
        ("timings.json", "{}", "not what this version of esamp writes"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_of(tmp_path, name, content, message):
    folder = write_run(tmp_path / "run", summary(SMALL[:2], steps=2))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    if (name, content) == ("timings.json", "{}"):
        # Speeds are no reason to fail.
        assert "timings.json" in build_report([folder])
        return
    with pytest.raises(UsageError, match=message):
        build_report([folder])


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        build_report([tmp_path / "missing"])
    with pytest.raises(UsageError, match="no run to report on"):
        build_report([])


def test_what_is_missing_beside_the_summary_is_noted(page_of):
    page = page_of(**{"environment.json": None, "timings.json": None})
    assert "environment.json is missing." in page
    assert "timings.json is missing." in page
    assert ">speed" not in page


def test_what_evaluation_writes_is_what_the_report_reads(tmp_path):
    data = run_in(tmp_path / "run")
    page = build_report([tmp_path / "run"])
    answers = rows_of(page, "Right answers")
    arm = data["arms"][2]
    value = arm["pass_at_k"]["1"]["value"]
    assert answers[arm["arm"]][0].split()[0] == f"{100 * value:.1f}"
    assert "a yes 0" in page
    assert re.findall(r'class="note">([^<]*)<', page) == ["environment.json is missing."]


def titles_of(page, title):
    """The heads of the table under a heading, each with its unit."""
    head = page.partition(f">{title}</h4>")[2].partition("</thead>")[0]
    cells = re.findall(r'<th scope="col">(.*?)</th>', head, re.S)
    return [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in cells][1:]


def test_the_papers_numbers_stand_beside_what_was_measured(page_of):
    paper = {
        "vanilla": {"pass@16": 0.303, "vendi:all-MiniLM-L6-v2": 1.62, "tokens_per_second": 55.1},
        "esamp": {"pass@16": 0.317, "perplexity:own": 3.55},
        "an arm of another run": {"pass@1": 0.1},
    }
    page = page_of(summary(SMALL, verifiable=True, steps=4), **{"paper.json": paper})
    places = {"Right answers": "pass@16", "Decoding": "speed", "Diversity and quality": "Vendi"}
    found = {}
    for table, measure in places.items():
        titles = titles_of(page, table)
        (place,) = (n for n, title in enumerate(titles) if title == f"paper {measure}")
        assert titles[place - 1].startswith(measure)
        rows = rows_of(page, table)
        assert all(len(row) == len(titles) for row in rows.values())
        found[measure] = {arm: row[place] for arm, row in rows.items() if row[place] != "–"}
    assert found == {
        "pass@16": {"vanilla": "30.3", "esamp": "31.7"},
        "speed": {"vanilla": "55.1"},
        "Vendi": {"vanilla": "1.62"},
    }
    assert titles_of(page, "Diversity and quality").count("paper Vendi") == 1, "of one embedder"
    assert "paper perplexity" in titles_of(page, "Diversity and quality")
    assert "paper pass@1" not in titles_of(page, "Right answers")
    assert "hold what the paper prints" in page


def test_a_run_beside_no_paper_says_nothing_of_one(page_of):
    assert "paper" not in page_of()


@pytest.mark.parametrize("paper", [[1], {"vanilla": 3}, {"vanilla": {"pass@1": "x"}}])
def test_damaged_numbers_of_the_paper_are_told_of(page_of, paper):
    page = page_of(**{"paper.json": paper})
    (note,) = re.findall(r'class="note">([^<]*)<', page)
    assert "paper.json" in note
