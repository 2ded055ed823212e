"""The client of the server: `Client`, what it returns, and what it raises.

from server.client import Client

with Client("http://127.0.0.1:8000") as client:
    print(client.predict("The goalkeeper saved two penalties.").predictions[0].label)

Needs none of the packages that serving needs. May import from `runtime.errors` and `runtime.labelled` only; the rest of
the server does not import it.
"""

from runtime.labelled import HeadOpinion, LabelledPrediction, RankedLabel
from server.client.client import Client
from server.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidURL,
    NotReady,
    Overloaded,
    ServerRefused,
    UnexpectedReply,
    Unreachable,
)
from server.client.reply import EarlyExit, Evaluation, ExitPoint, Model, Reply, Timing
from server.client.request import Input

__all__ = [
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "EarlyExit",
    "Evaluation",
    "ExitPoint",
    "HeadOpinion",
    "Input",
    "InvalidURL",
    "LabelledPrediction",
    "Model",
    "NotReady",
    "Overloaded",
    "RankedLabel",
    "Reply",
    "ServerRefused",
    "Timing",
    "UnexpectedReply",
    "Unreachable",
]
