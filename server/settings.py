"""Settings of the server: keyword arguments, or environment variables with the prefix NEUROTRAILS_.

NEUROTRAILS_PORT=9000 NEUROTRAILS_ENGINE=onnxruntime neurotrails serve
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything about a server that can be chosen. An argument wins over the environment."""

    model_config = SettingsConfigDict(
        env_prefix="NEUROTRAILS_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    models: Path = Path("models")
    """Folder whose subfolders are the artifacts to serve."""
    engine: str = "auto"
    """Engine that runs the models: deepsparse, native or onnxruntime; auto: native where it can, else another one."""
    accept_deepsparse_licence: bool = False
    """Let `auto` choose DeepSparse, whose community licence covers evaluation only."""
    cores: Positive | None = None
    """Cores to compute on; None: all that this process may use."""
    streams: Positive = 1
    """Calls of one model that may compute at the same time."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4, 16)
    """Batch sizes that engines compile at start-up; any number of inputs can be sent."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    max_body_bytes: Positive = 32 * 2**20
    """Largest request body."""
    body_timeout_seconds: Seconds = 30.0
    """Longest time that a client may take to send its body."""
    max_inputs: Positive = 64
    """Most inputs in one request."""
    max_pixels: Positive = 50_000_000
    """Most pixels in one image, checked before any is decoded."""
    max_text_chars: Positive = 200_000
    """Most characters in one text."""
    decode_workers: Positive = 2
    """Threads that decode images and tokenize texts."""
    shutdown_timeout_seconds: Positive = 30
    """Longest time that open requests may take to finish once the server is told to stop."""
