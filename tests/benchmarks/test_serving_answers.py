"""The check of replies: it takes the right ones and finds every kind of wrong one."""

import json
from typing import Any

import numpy as np
import pytest

from serving_answers import AnsweredRow, check_reply, heads_problem
from serving_client import NO_REPLY, Reply
from serving_expected import Expected, candidate_images, candidate_texts, distinct_rows
from serving_faults import VersionSwitches, WorkerFaults
from serving_requests import IMAGE_FORMS, TEXT_FORMS, Case, draw_case

LABELS = ("cat", "dog", "cow")
VOTES = np.array(
    [
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05]],
        [[0.8, 0.1, 0.1], [0.1, 0.3, 0.6], [0.95, 0.03, 0.02]],
    ]
)
"""[heads, inputs, classes]"""
HEADS = np.array([[0.6, 0.7, 0.9], [0.97, 0.8, 0.99]])
"""[heads, inputs]"""
EXPECTED = Expected("animals", LABELS, ("a", "b", "c"), {"1": VOTES, "2": VOTES[:, ::-1]}, {"1": HEADS, "2": HEADS})


def case(*rows: int, kind: str = "/predict JSON", **options: Any) -> Case:
    return Case("me", kind, b"", EXPECTED, rows, **options)


def row(label: str, probability: float, heads: int, why: str = "all", first: float = 0.6) -> dict[str, Any]:
    voted = [{"probability": first}, {"probability": 0.97}][:heads]
    return {"label": label, "probability": probability, "heads_used": heads, "stopped_by": why, "heads": voted}


def reply(*rows: dict[str, Any], status: int = 200, identity: str = "me", **more: Any) -> Reply:
    document = {"id": identity, "model": "animals", "version": "1", "predictions": list(rows), **more}
    return Reply(status, {"x-request-id": identity}, json.dumps(document).encode())


def test_a_right_answer() -> None:
    found = check_reply(case(0), reply(row("cat", 0.80005, 2)))
    assert (found.verdict, found.rows, found.version) == ("right", 1, "1")
    assert found.largest_difference == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (reply(row("cat", 0.8003, 2)), "differ by 0.0003"),
        (reply(row("dog", 0.8, 2)), "'dog' instead of 'cat'"),
        (reply(row("cat", 0.8, 2, first=0.7)), "differ by 0.1"),
        (reply(row("cat", 0.8, 2), row("cat", 0.8, 2)), "2 rows for 1 inputs"),
        (reply(row("cat", 0.8, 2), identity="you"), "the reply of you"),
        (reply(row("cat", 0.8, 2), model="plants"), "of plants 1"),
        (reply(row("cat", 0.8, 2), version="3"), "of animals 3"),
        (reply(row("cat", 0.8, 2), version="2"), "differ by"),
        (reply(row("cat", 0.8, 3)), "3 heads of 2"),
        (reply(row("cat", 0.6, 1)), "1 heads of 2, stopped by all"),
    ],
)
def test_wrong_answers_are_found(given: Reply, problem: str) -> None:
    found = check_reply(case(0), given)
    assert found.verdict == "wrong"
    assert problem in found.problem


def test_errors_need_a_reason() -> None:
    def verdict(status: int, error: str = "no", retry: str = "1", **options: Any) -> str:
        body = json.dumps({"error": error, "code": "x"}).encode()
        return check_reply(
            case(0, **options), Reply(status, {"x-request-id": "me", "retry-after": retry}, body)
        ).verdict

    assert verdict(429) == "refused"
    assert verdict(429, retry="0") == "unexplained"
    assert verdict(504) == "unexplained"
    assert verdict(504, is_timed=True) == "late"
    assert verdict(500, "The engine failed on this request") == "failed"
    assert verdict(500, "The engine failed on this request", is_poisoned=True) == "right"
    assert verdict(500, "The server failed") == "unexplained"
    assert verdict(503) == "unexplained"
    assert check_reply(case(0), Reply(NO_REPLY, {}, b"")).verdict == "lost"
    assert check_reply(case(0, is_poisoned=True), reply(row("cat", 0.8, 2))).verdict == "wrong"


@pytest.mark.parametrize(
    ("used", "why", "options", "right"),
    [
        (2, "all", {}, True),
        (1, "load", {}, True),
        (1, "deadline", {}, True),
        (1, "early_exit", {}, False),
        (2, "requested", {}, False),
        (1, "requested", {"heads": 1}, True),
        (2, "all", {"heads": 2}, True),
        (1, "load", {"heads": 2}, False),
        (1, "early_exit", {"min_confidence": 0.59}, True),
        (1, "load", {"min_confidence": 0.59}, False),
        (2, "all", {"min_confidence": 0.59}, False),
        (1, "early_exit", {"min_confidence": 0.61}, False),
        (1, "load", {"min_confidence": 0.61}, True),
        (2, "all", {"min_confidence": 0.61}, True),
        (1, "early_exit", {"min_confidence": 0.60005}, True),
        (2, "all", {"min_confidence": 0.60005}, True),
    ],
)
def test_the_number_of_heads_needs_a_reason(used: int, why: str, options: dict[str, Any], right: bool) -> None:
    answer = AnsweredRow("cat", float(VOTES[used - 1, 0, 0]), used, why)
    assert (heads_problem(case(0, **options), "1", 0, answer) == "") == right


def test_open_inference_replies_are_read() -> None:
    document = {
        "model_name": "animals", "model_version": "1", "id": "me",
        "outputs": [
            {"name": "label", "data": ["cat", "cow"]},
            {"name": "probabilities", "shape": [2, 3], "data": [0.8, 0.1, 0.1, 0.1, 0.3, 0.6]},
            {"name": "head_probabilities", "shape": [2, 2, 3],
             "data": [0.6, 0.3, 0.1, 0.97, 0.02, 0.01, 0.7, 0.2, 0.1, 0.1, 0.1, 0.8]},
            {"name": "heads_used", "data": [2, 2]},
            {"name": "stopped_by", "data": ["all", "all"]},
        ],
    }  # fmt: skip
    given = Reply(200, {"x-request-id": "me"}, json.dumps(document).encode())
    assert check_reply(case(0, 1, kind="/v2 JSON"), given).verdict == "right"
    assert check_reply(case(1, 0, kind="/v2 JSON"), given).verdict == "wrong"


def test_inputs_are_kept_that_can_be_told_apart() -> None:
    assert distinct_rows(VOTES[None]) == [0, 1, 2]
    twice = np.concatenate([VOTES, VOTES[:, :1] + 1e-5], axis=1)
    assert distinct_rows(twice[None]) == [0, 1, 2]
    unclear = VOTES.copy()
    unclear[1, 1] = (0.1, 0.45, 0.45)
    assert distinct_rows(unclear[None]) == [0, 2]
    assert distinct_rows(np.stack([VOTES, VOTES])) == []  # versions do not differ
    assert distinct_rows(np.stack([VOTES, VOTES * 0.99])) == [0, 1, 2]


def test_requests_are_drawn_from_the_seed_in_every_form() -> None:
    generator = np.random.default_rng(0)
    images = Expected("images", LABELS, tuple(candidate_images(3, generator)), {"1": VOTES}, {"1": HEADS})
    texts = Expected("texts", LABELS, tuple(candidate_texts(3, generator)), {"1": VOTES}, {"1": HEADS})

    def draw(seed: int) -> list[Case]:
        source = np.random.default_rng(seed)
        return [draw_case((images, texts), source, f"r{number}") for number in range(2000)]

    cases = draw(1)
    assert [each.request for each in cases] == [each.request for each in draw(1)]
    assert {each.kind for each in cases} == {*TEXT_FORMS, *IMAGE_FORMS, "/v2 poisoned"}
    for each in cases:
        assert f"x-request-id: {each.identity}\r\n".encode() in each.request
        assert each.heads is None or each.min_confidence is None
        assert 1 <= len(each.rows) <= 4
    assert {len(each.rows) for each in cases} == {1, 2, 3, 4}
    assert any(each.heads for each in cases)
    assert any(each.min_confidence for each in cases)
    assert any(each.is_timed for each in cases)


def test_a_failure_is_explained_by_a_fault_at_its_time() -> None:
    faults = WorkerFaults(None, 4, windows=[(10.0, 12.0), (20.0, 24.0)])  # type: ignore[arg-type] # not asked
    assert faults.explain(11, 11.5)
    assert faults.explain(5, 10)
    assert faults.explain(5, 30)
    assert not faults.explain(12.1, 19.9)
    assert not faults.explain(25, 26)


def test_a_version_may_answer_only_while_it_is_served() -> None:
    switches = VersionSwitches(None, None, {"m": ("1", "2")})  # type: ignore[arg-type] # not asked
    assert switches.allow("m", "1", 5, 6)
    assert not switches.allow("m", "2", 5, 6)
    switches._wanted["m 2"] = 10.0
    assert switches.allow("m", "1", 11, 12)
    assert switches.allow("m", "2", 9, 11)
    assert not switches.allow("m", "2", 8, 9)
    switches._replaced["m 1"] = 15.0
    assert switches.allow("m", "1", 14, 16)
    assert not switches.allow("m", "1", 15.1, 16)
    assert switches.allow("m", "2", 15.1, 16)
