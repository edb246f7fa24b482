import json

from hypothesis import given
from hypothesis import strategies as st

from esamp.evals.records import GroupRecord, SampleRecord
from esamp.generation import Completion


def completion(text, tokens, **changes):
    settings = {"text": text, "token_ids": range(tokens), "finish_reason": "stop"}
    return Completion(**settings | {"logprobs": [-0.5] * tokens} | changes)


def test_a_sample_keeps_where_tokens_end_and_what_they_cost():
    found = SampleRecord.of(completion("a bc", 3, reference_logprobs=[-1.0] * 3), ["a", " b", "c"])
    assert (found.ends, found.tokens) == ([1, 3, 4], 3)
    assert [found.prefix(tokens) for tokens in (1, 2, 3, 9)] == ["a", "a b", "a bc", "a bc"]
    assert (found.logprob, found.reference_logprob, found.novelty) == (-1.5, -3.0, None)


@given(st.lists(st.text("ab ", max_size=3), max_size=8), st.integers(0, 12))
def test_no_token_ends_behind_the_text(pieces, length):
    """Pieces of a broken character, say, may be longer than what they become together."""
    text = "".join(pieces)[:length]
    ends, end = [], 0
    for piece in pieces:
        end = min(end + len(piece), len(text))
        ends.append(end)
    assert SampleRecord.of(completion(text, len(pieces)), pieces).ends == ends


def test_novelty_is_rounded_and_may_be_missing():
    found = SampleRecord.of(completion("ab", 2, novelty=[None, 0.123456]), ["a", "b"])
    assert found.novelty == [None, 0.1235]


def test_a_record_is_read_back_from_its_line():
    sample = SampleRecord.of(completion("ab", 2, novelty=[None, 0.5]), ["a", "b"])
    record = GroupRecord(
        arm="esamp", seed=1, item="x", batch=2, samples=[sample] * 2, distiller_error=[None, 1.0]
    )
    line = json.dumps(record.to_json())
    # What is looked for in a line without reading its samples stands first.
    assert line.startswith('{"arm": "esamp", "seed": 1, "item": "x", "batch": 2, "samples": ')
    assert GroupRecord.from_json(json.loads(line)) == record
