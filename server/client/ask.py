"""The verb `ask`: images or texts to labels, by a running server. Prints what the verb `predict` prints.

neurotrails ask examples/fashion-mnist/*.png --heads 2
echo "The rocket reached orbit." | neurotrails ask - --url https://models.example.org --top-k 3
"""

import json as json_module
import os
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from runtime.named_input import read_named
from server.client.client import DEFAULT_URL, Client

KEY_VARIABLE = "NEUROTRAILS_CLIENT_KEY"


def ask(
    *inputs: Annotated[str, Parameter(allow_leading_hyphen=True)],
    url: str = DEFAULT_URL,
    model: str | None = None,
    heads: int | None = None,
    min_confidence: float | None = None,
    target_accuracy: float | None = None,
    timeout_seconds: float | None = None,
    retries: int = 0,
    top_k: int = 1,
    json: bool = False,
) -> None:
    """Ask a running server to predict images or texts.

    An API key is read from the environment variable NEUROTRAILS_CLIENT_KEY, since a command line is no secret.

    Args:
        inputs: Files to predict, all images or all texts in UTF-8; - is the standard input.
        url: Address of the server.
        model: Name of the model. Default: the only one that takes such inputs.
        heads: Let exactly this many heads vote. Default: all, unless the load sheds some.
        min_confidence: Stop asking heads for an input once its vote is at least this sure. Default: never.
        target_accuracy: Stop as early as the model's table of early exits allows at this accuracy. Not together with
            heads or min_confidence.
        timeout_seconds: Give up after this time. Default: the server's, at most 30 seconds.
        retries: How often to ask again where the server has no room or is not ready yet, when it says so.
        top_k: How many of the most probable labels to show.
        json: Print JSON.

    Raises:
        ClientError: There is no answer.
        InputError: A file cannot be read.
    """
    data = read_named(inputs)
    with Client(url, api_key=os.environ.get(KEY_VARIABLE), retries=retries) as client:
        reply = client.predict(
            data,
            model=model,
            heads=heads,
            min_confidence=min_confidence,
            target_accuracy=target_accuracy,
            timeout_seconds=timeout_seconds,
            top_k=top_k,
        )
    if json:
        named = [{"input": name, **asdict(each)} for name, each in zip(inputs, reply.predictions, strict=True)]
        print(json_module.dumps(asdict(reply) | {"predictions": named}, indent=2, ensure_ascii=False))
        return
    for name, prediction in zip(inputs, reply.predictions, strict=True):
        print("\n".join(prediction.lines(name)))
