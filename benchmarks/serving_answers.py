"""Whether a reply is the right one: its own answer, or an error that has a reason."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from serving_client import NO_REPLY, Reply
from serving_expected import TOLERANCE, Expected
from serving_requests import Case

Verdict = Literal["right", "refused", "late", "failed", "lost", "wrong", "unexplained"]


@dataclass(frozen=True)
class AnsweredRow:
    """One row of a reply, whatever the protocol."""

    label: str
    probability: float
    heads_used: int
    stopped_by: str
    head_probabilities: tuple[float, ...] = ()
    """Greatest probability of each head that voted; empty where the protocol leaves them out."""


@dataclass
class Finding:
    """What a reply is."""

    verdict: Verdict
    code: str
    """Status, and the code of an error where the protocol has one."""
    problem: str = ""
    version: str = ""
    """Of the model that answered."""
    rows: int = 0
    """Rows that were compared with their precomputed answers."""
    largest_difference: float = 0.0
    """Of a probability from the precomputed one."""


def check_reply(case: Case, reply: Reply) -> Finding:
    """Judge one reply. `failed`: the engine failed on a request on which it should not, unless there was a fault."""
    if reply.status == NO_REPLY:
        return Finding("lost", "no reply", "the connection ended without a reply")
    if reply.headers.get("x-request-id") != case.identity:
        return Finding("wrong", str(reply.status), f"the reply of {reply.headers.get('x-request-id')}")
    if reply.status == 200:
        return _check_answer(case, reply)
    document = json.loads(reply.body)
    code = f"{reply.status} {document.get('code', '')}".strip()
    problem = f"{code}: {document.get('error')}"
    match reply.status:
        case 429 if int(reply.headers.get("retry-after", "0")) >= 1:
            return Finding("refused", code)
        case 504 if case.is_timed:
            return Finding("late", code)
        case 500 if "engine failed" in document.get("error", ""):
            return Finding("right" if case.is_poisoned else "failed", code, problem)
    return Finding("unexplained", code, problem)


def _check_answer(case: Case, reply: Reply) -> Finding:
    finding = Finding("right", "200")
    if case.is_poisoned:
        return Finding("wrong", "200", "an answer to an input on which the engine fails")
    head = int(reply.headers.get("inference-header-content-length", len(reply.body)))
    document = json.loads(reply.body[:head])
    if case.speaks_v2:
        rows, model, version = _v2_rows(document), document["model_name"], document["model_version"]
    else:
        rows, model, version = _rows(document), document["model"], document["version"]
    finding.version = version
    if (document["id"], model) != (case.identity, case.expected.name) or version not in case.expected.votes:
        return Finding("wrong", "200", f"the answer {document['id']} of {model} {version}")
    if len(rows) != len(case.rows):
        return Finding("wrong", "200", f"{len(rows)} rows for {len(case.rows)} inputs")
    for number, (row, answer) in enumerate(zip(case.rows, rows, strict=True)):
        problem = heads_problem(case, version, row, answer) or _value_problem(case.expected, row, answer, finding)
        finding.rows += 1
        if problem:
            finding.verdict, finding.problem = "wrong", f"row {number}: {problem}"
            return finding
    return finding


def _value_problem(expected: Expected, row: int, answer: AnsweredRow, finding: Finding) -> str:
    version = finding.version
    right = expected.label(version, row, answer.heads_used)
    if answer.label != right:
        return f"{answer.label!r} instead of {right!r} with {answer.heads_used} heads"
    difference = expected.difference(version, row, answer.heads_used, answer.probability, answer.head_probabilities)
    finding.largest_difference = max(finding.largest_difference, difference)
    return f"probabilities differ by {difference:.2g}" if difference > TOLERANCE else ""


def heads_problem(case: Case, version: str, row: int, answer: AnsweredRow) -> str:
    """Say what is wrong with the number of heads that voted, and why no more did; empty: nothing."""
    used, total, why = answer.heads_used, case.expected.heads_total, answer.stopped_by
    if not 1 <= used <= total:
        return f"{used} heads of {total}"
    if case.heads is not None:
        right = used == case.heads and why == ("all" if used == total else "requested")
        return "" if right else f"{used} heads ({why}) instead of the {case.heads} that were promised"
    sure = 2.0 if case.min_confidence is None else case.min_confidence  # no vote is as sure as 2
    votes = [case.expected.confidence(version, row, heads) for heads in range(1, used + 1)]
    if any(vote >= sure + TOLERANCE for vote in votes[:-1]):
        return f"{used} heads, though fewer were sure enough"
    if used == total:
        allowed = {"all"}
    elif votes[-1] >= sure + TOLERANCE:
        allowed = {"early_exit"}
    else:
        allowed = {"load", "deadline"} | ({"early_exit"} if votes[-1] >= sure - TOLERANCE else set())
    return "" if why in allowed else f"{used} heads of {total}, stopped by {why}"


def _rows(document: dict[str, Any]) -> list[AnsweredRow]:
    return [
        AnsweredRow(
            row["label"], row["probability"], row["heads_used"], row["stopped_by"],
            tuple(head["probability"] for head in row["heads"]),
        )
        for row in document["predictions"]
    ]  # fmt: skip


def _v2_rows(document: dict[str, Any]) -> list[AnsweredRow]:
    outputs = {output["name"]: output for output in document["outputs"]}
    labels = outputs["label"]["data"]
    classes = outputs["probabilities"]["shape"][1]
    votes = _split(outputs["probabilities"]["data"], classes)
    heads: list[tuple[float, ...]] = [()] * len(labels)
    if "head_probabilities" in outputs:
        _, count, _ = outputs["head_probabilities"]["shape"]
        each = [max(values) for values in _split(outputs["head_probabilities"]["data"], classes)]
        heads = [tuple(values) for values in _split(each, count)]
    used, why = outputs["heads_used"]["data"], outputs["stopped_by"]["data"]
    return [
        AnsweredRow(label, max(vote), count, reason, voted)
        for label, vote, count, reason, voted in zip(labels, votes, used, why, heads, strict=True)
    ]


def _split(values: list[float], length: int) -> list[list[float]]:
    return [values[start : start + length] for start in range(0, len(values), length)]
