"""Settings of the server: keyword arguments, or environment variables with the prefix NEUROTRAILS_.

NEUROTRAILS_PORT=9000 NEUROTRAILS_ENGINE=onnxruntime neurotrails serve --config server.yaml
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runtime.preprocess import MAX_PIXELS, MOST_PIXELS

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _split_path(value: Any) -> Any:
    """Folders from one string, or from each of several, separated as in PATH."""
    given = [value] if isinstance(value, str | Path) else value
    return [part for each in given for part in str(each).split(os.pathsep) if part]


SearchPath = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_path), Field(min_length=1)]


class Settings(BaseSettings):
    """Everything about a server that can be chosen. An argument wins over the environment."""

    model_config = SettingsConfigDict(
        env_prefix="NEUROTRAILS_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    models: SearchPath = (Path("models"),)
    """Folders with the artifacts to serve, in `name/version/` or directly below; separated by colons, as in PATH."""
    serving_file: Path = Path("serving.yaml")
    """File that says which models to serve in which versions; without it: the highest version of all there are."""
    poll_seconds: Seconds = 5.0
    """Time between looks at that file and at the folders with the artifacts."""
    engine: str = "auto"
    """Engine that runs the models: deepsparse, native, onnxruntime or openvino; auto: what `neurotrails tune` chose for
    a model on this machine, else native where it can, else another one."""
    accept_deepsparse_licence: bool = False
    """Let `auto` choose DeepSparse, whose community licence covers evaluation only."""
    cores: Positive | None = None
    """Cores to compute on; None: all that this process may use."""
    streams: Positive = 1
    """Calls of one model that may compute at the same time."""
    engine_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that compute for each model, each on its share of the cores; 0: threads of the server compute."""
    engine_timeout_seconds: Seconds = 60.0
    """Longest time that a call of an engine may take in such a process, which is then killed and replaced."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1), NoDecode] = (1, 4, 16)
    """Batch sizes that engines compile at start-up; any number of inputs can be sent."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys of which every request must name one, but those for probes and the page; empty, and no file: none needed."""
    api_keys_file: Path | None = None
    """File with more such keys, one on each line."""
    metrics_without_key: bool = False
    """Answer /metrics without a key, too."""
    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the admin API, which needs a key, too; None: there is no admin API."""
    admin_host: str = "127.0.0.1"
    """Address that the admin API listens on."""
    admin_key: SecretStr | None = None
    """Key that requests to the admin API must name; no key for predictions is one for this."""
    admin_key_file: Path | None = None
    """File with more such keys, one on each line."""
    log_format: Literal["text", "json"] = "text"
    """How the log is written to standard error: lines for people, or one JSON object on each line."""
    log_requests: bool = True
    """Log one line for each request."""
    max_connections: Positive = 512
    """Most open connections; on a few more only probes are answered."""
    header_timeout_seconds: Seconds = 10.0
    """Longest time that a client may take to send the headers of a request."""
    keep_alive_seconds: Positive = 5
    """Time after which an idle connection is closed."""
    max_body_bytes: Positive = 32 * 2**20
    """Largest request body."""
    max_bodies_bytes: Positive = 256 * 2**20
    """Most bytes of all request bodies together that are held at a time; more are refused with 429."""
    body_timeout_seconds: Seconds = 30.0
    """Longest time that a client may take to send its body."""
    min_body_rate: Positive = 1000
    """Bytes per second that a client must send on average, after the first five seconds."""
    timeout_seconds: Seconds = 30.0
    """Time from the headers of a request within which it is answered, where it names no timeout_ms."""
    max_timeout_seconds: Seconds = 300.0
    """Longest timeout_ms that a request may name."""
    min_heads: Positive | None = None
    """Fewest heads that vote under load, where a request does not name a number; None: all, so none is ever shed."""
    latency_target_seconds: Seconds = 0.5
    """Heads are shed, down to min_heads, so that everything that waits is done within this time."""
    max_waiting_rows: Positive = 512
    """Most inputs of one model that are admitted and not answered; more are refused with 429."""
    max_inputs: Positive = 64
    """Most inputs in one request."""
    max_pixels: Annotated[int, Field(ge=1, le=MOST_PIXELS)] = MAX_PIXELS
    """Most pixels in one image, checked before any is decoded."""
    max_text_chars: Positive = 200_000
    """Most characters in one text."""
    decode_workers: Positive = 2
    """Threads that decode images and tokenize texts."""
    drain_delay_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Time after SIGTERM for which requests are still accepted, while /readyz already says no."""
    shutdown_timeout_seconds: Positive = 30
    """Longest time after that for open requests to finish."""

    @field_validator("batch_sizes", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """In the environment, `1,4,16` and `[1, 4, 16]` are the same."""
        if not isinstance(value, str):
            return value
        return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.max_waiting_rows < self.max_inputs:
            raise ValueError(
                f"max_waiting_rows ({self.max_waiting_rows}) must be at least max_inputs ({self.max_inputs}), or the "
                "largest requests would always be refused"
            )
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_bodies_bytes ({self.max_bodies_bytes}) must be at least max_body_bytes ({self.max_body_bytes}), "
                "or the largest bodies would always be refused"
            )
        if self.timeout_seconds > self.max_timeout_seconds:
            raise ValueError(
                f"timeout_seconds ({self.timeout_seconds:g}) must be at most max_timeout_seconds "
                f"({self.max_timeout_seconds:g})"
            )
        return self
