"""What a tuning says, as frozen typed objects that are read from JSON which nobody has to trust."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.costs import CostSurface

TUNING_VERSION: Literal[1] = 1

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class Record(BaseModel):
    """Base of all tuning objects: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Setup(Record):
    """One way to run an artifact: an engine and its options."""

    engine: Name
    precision: Name
    """Of execution."""
    cores: Positive
    """Cores that the engine computes on, at most the core budget."""
    streams: Positive
    """Calls that compute at the same time on these cores."""

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        streams = "" if self.streams == 1 else f", {self.streams} streams"
        return f"{self.engine} {self.precision}, {cores}{streams}"


class Speed(Record):
    """A setup at one batch size: trunk and all heads, with as many calls at a time as it has streams."""

    rows: Positive
    p50_seconds: Seconds
    """Median time of a call."""
    p99_seconds: Seconds
    """99th percentile of a call, rounded up to one that was seen: below 100 calls it is the slowest."""
    rows_per_second: Rate
    """Median over the rounds."""
    rounds: Positive
    calls: Positive
    finished: bool
    """Whether it was measured to the end; False: it lost early."""


class Trial(Record):
    """All that was measured of one setup."""

    setup: Setup
    version: str | None = None
    """Of the engine; None where it never loaded."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the reference inputs that get the same label as from the original network."""
    speeds: tuple[Speed, ...] = ()
    costs: tuple[CostSurface, ...] = ()
    """One for each token length (images: one); only of setups that were chosen."""
    failure: str | None = None
    """Why it could not be measured (to the end)."""


class Choice(Record):
    """A setup that was chosen, for one batch size."""

    setup: Setup
    rows: Positive


class Tuning(Record):
    """What one run of `tune` measured, and what it chose."""

    tuning_version: Literal[1] = TUNING_VERSION
    artifact: Name
    artifact_version: Name
    artifact_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    artifact_precision: Name
    """That it is stored in."""
    cpu: str
    cores: Positive
    """The core budget."""
    busy_cores: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    """Cores that others kept busy just before: the load average of the last minute; None where it is not known."""
    tokens: Annotated[int, Field(ge=0)]
    """Length of the texts that were timed; 0 unless the artifact reads texts."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    target_p99_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    budget_seconds: Seconds
    trials: tuple[Trial, ...]
    fastest: Choice
    """The lowest median latency at the smallest batch size."""
    best: Choice | None
    """The most rows per second within the target; None without a target, or where nothing meets it."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for choice in (self.fastest, self.best):
            if choice is not None:
                self.speed(choice)
        if any(trial.setup.cores > self.cores or trial.setup.streams > self.cores for trial in self.trials):
            raise ValueError(f"a setup uses more than the core budget of {self.cores}")
        return self

    @property
    def chosen(self) -> Choice:
        """What `auto` takes: the best within the target, else the fastest."""
        return self.best or self.fastest

    @property
    def costs(self) -> tuple[CostSurface, ...]:
        """What the chosen setup costs, for each token length (images: one)."""
        return self.trial(self.chosen.setup).costs

    def trial(self, setup: Setup) -> Trial:
        """What was measured of a setup. Raises ValueError where it was not tried."""
        for trial in self.trials:
            if trial.setup == setup:
                return trial
        raise ValueError(f"{setup} was not tried")

    def speed(self, choice: Choice) -> Speed:
        """What was measured of a choice. Raises ValueError where nothing was."""
        for speed in self.trial(choice.setup).speeds:
            if speed.rows == choice.rows:
                return speed
        raise ValueError(f"{choice.setup} was not measured with {choice.rows} rows")
