"""Load for a running server: image users and text users who check every answer.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000
    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --headless -u 8 -r 8 -t 30s --only-summary

The inputs are the genuine ones in `examples/`; `examples/expected.json` holds the model and the right label of each. An
answer of another model or with another label is a failure, and a headless run with a failure ends with status 1.
Locust replaces Python's sockets and threads, so this file imports nothing of the project.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})


@dataclass(frozen=True)
class Example:
    """One input, the model that it is for, and the label that is right."""

    file: str
    data: bytes
    model: str
    label: str

    @property
    def is_image(self) -> bool:
        """Whether it is an image; else it is a text."""
        return Path(self.file).suffix.lower() in IMAGE_SUFFIXES


def load_examples(folder: Path) -> list[Example]:
    """Read `expected.json`, {"<file>": {"model": "<name>", "label": "<label>"}}, and the files that it names."""
    try:
        expected: dict[str, dict[str, str]] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        return [
            Example(file, (folder / file).read_bytes(), entry["model"], entry["label"])
            for file, entry in sorted(expected.items())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        sys.exit(f"The examples in {folder} cannot be read ({problem}). Choose another folder with --examples.")


def check(example: Example, status: int, body: Any) -> str | None:
    """Say what is wrong with an answer to `example`; None: nothing."""
    if status != 200 or not isinstance(body, dict):
        return f"{example.file}: status {status}: {body}"
    found = [prediction.get("label") for prediction in body.get("predictions", [])]
    if body.get("model") != example.model or found != [example.label]:
        return f"{example.file}: {body.get('model')} says {found}; {example.model} should say {example.label!r}"
    return None


def add_options(parser: LocustArgumentParser) -> None:
    """Add --examples to Locust's own options."""
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="folder with inputs and their expected.json")


def give_examples(environment: Environment, **_: object) -> None:
    """Give each kind of user its inputs before the first one starts."""
    assert environment.parsed_options is not None
    folder = environment.parsed_options.examples
    examples = load_examples(folder)
    for kind in environment.user_classes:
        if not issubclass(kind, CheckingUser):
            continue
        kind.examples = [example for example in examples if example.is_image == kind.sends_images]
        if not kind.examples:
            sys.exit(f"{folder} holds no input for {kind.__name__}. Add some, or name the users to run.")


class CheckingUser(FastHttpUser):
    """Posts one example after another, in random order, and checks each answer."""

    abstract = True
    wait_time = constant(0)
    examples: ClassVar[list[Example]] = []
    sends_images: ClassVar[bool]
    content_type: ClassVar[str]

    @task
    def predict(self) -> None:
        """Post one example to /predict."""
        example = random.choice(self.examples)
        data: Any = example.data  # bytes are sent as they are, which Locust's annotations do not say
        with self.client.request(
            "POST",
            f"/predict?model={example.model}",
            name=f"/predict?model={example.model}",
            data=data,
            headers={"content-type": self.content_type},
            catch_response=True,
        ) as response:
            try:
                body = json.loads(response.content or b"null")
            except ValueError:
                body = response.text
            problem = check(example, response.status_code, body)
            if problem is None:
                response.success()
            else:
                response.failure(problem)


class ImageUser(CheckingUser):
    """Posts image files."""

    sends_images = True
    content_type = "application/octet-stream"


class TextUser(CheckingUser):
    """Posts plain texts."""

    sends_images = False
    content_type = "text/plain; charset=utf-8"


hooks: Any = events  # the methods of Locust's hooks are not annotated
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(give_examples)
