"""Every bash and python example of the documents about serving, run against a real server with the shipped models."""

import pytest

from tests.documents import Example, alike, examples_in
from tests.server.service import Service

DOCUMENTS = ["README.md", "docs/serving.md", "docs/open-inference.md"]
EXAMPLES = [example for path in DOCUMENTS for example in examples_in(path)]


def test_each_document_has_examples() -> None:
    for path in DOCUMENTS:
        assert len([example for example in EXAMPLES if example.path == path and example.shown]) >= 2, path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.path}:{example.line}")
def test_it_does_what_is_shown(example: Example, shipped: Service) -> None:
    example.check(example.run(shipped.port))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Bag 99.2%", "Bag 99.4%"),
        ("Bag 99.4%", "Dress 99.4%"),
        ({"a": [0.5]}, {"a": [0.501]}),
        ({"a": [1, 2]}, {"a": [1]}),
        ({"a": 1}, {"b": 1}),
        ({"a": None}, {"a": 0.0}),
    ],
)
def test_what_is_not_alike(said: object, shown: object) -> None:
    with pytest.raises(AssertionError):
        alike(said, shown)


def test_what_is_alike() -> None:
    alike({"a": [0.50004, "0.727961:10:x", 2, None]}, {"a": [0.5, "0.727960:10:x", 2, None]})
