"""A tuning as text: a table of all that was measured, and what was chosen."""

from collections.abc import Sequence

from runtime.table import Cells, table
from runtime.tuning.records import Choice, Trial, Tuning

BUSY_SHARE = 0.25
"""From here on, as a share of the core budget, what others compute disturbs the figures."""

FEW_CALLS = 100
"""Below so many calls a 99th percentile is only the slowest of them."""


def render(tuning: Tuning, left_out: Sequence[str]) -> list[str]:
    """Lines for people. `left_out` says what was not tried, and why."""
    texts = f" of {tuning.tokens} tokens" if tuning.tokens else ""
    lines = [
        f"{tuning.artifact} {tuning.artifact_version} on {tuning.cpu}, {tuning.cores} core(s); all heads; times of a "
        f"call{texts}",
        "",
        *table(_rows(tuning)),
        "",
    ]
    failed = [trial for trial in tuning.trials if trial.failure is not None]
    lines += [f"failed    {trial.setup}: {trial.failure}" for trial in failed]
    lines += [f"left out  {reason}" for reason in left_out]
    lines += [f"agrees    {_agreement(trial)}" for trial in tuning.trials if _may_differ(tuning, trial)]
    if tuning.busy_cores is not None and tuning.busy_cores > BUSY_SHARE * tuning.cores:
        lines.append(
            f"busy      others kept {tuning.busy_cores:.1f} cores busy before: these are figures of a busy machine. "
            "Tune again when it is quiet"
        )
    return [*lines, *_choices(tuning)]


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits, and never as a power of ten."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _rows(tuning: Tuning) -> list[Cells]:
    columns = ("engine", "precision", "cores", "streams", "batch", "p50 ms", "p99 ms", "rows/s", "calls", "")
    rows: list[Cells] = [columns]
    for trial in tuning.trials:
        setup = trial.setup
        name = (setup.engine, setup.precision, str(setup.cores), str(setup.streams))
        for speed in trial.speeds:
            times = milliseconds(speed.p50_seconds), milliseconds(speed.p99_seconds)
            figures = (*times, f"{speed.rows_per_second:,.0f}")
            rows.append((*name, str(speed.rows), *figures, str(speed.calls), _remark(tuning, trial, speed.rows)))
        if not trial.speeds:
            rows.append((*name, *["-"] * 5, "failed"))
    return rows


def _remark(tuning: Tuning, trial: Trial, rows: int) -> str:
    here = Choice(setup=trial.setup, rows=rows)
    if trial.failure is not None:
        return "failed"
    remarks = [name for name, choice in (("best", tuning.best), ("fastest", tuning.fastest)) if choice == here]
    return " and ".join(remarks) if remarks else "" if tuning.speed(here).finished else "lost early"


def _may_differ(tuning: Tuning, trial: Trial) -> bool:
    """Whether it is worth a line how many labels stay: another precision than the stored one, or labels that change."""
    other = trial.setup.precision != tuning.artifact_precision
    return trial.agreement is not None and (other or trial.agreement < 1)


def _agreement(trial: Trial) -> str:
    return f"{trial.setup}: {trial.agreement:.1%} of the reference inputs get the label of the original network"


def _choices(tuning: Tuning) -> list[str]:
    fastest = tuning.speed(tuning.fastest)
    rows = "1 row" if fastest.rows == 1 else f"{fastest.rows} rows"
    lines = [f"fastest   {tuning.fastest.setup}: {rows} in {milliseconds(fastest.p50_seconds)} ms"]
    target = tuning.target_p99_seconds
    if target is None:
        lines.append("chosen    the fastest, as no target was given")
    elif tuning.best is None:
        lines.append(
            f"chosen    the fastest: NOTHING meets p99 <= {milliseconds(target)} ms. Allow more time, give it more "
            "cores, or serve a smaller network"
        )
    else:
        best = tuning.speed(tuning.best)
        lines.append(
            f"chosen    {tuning.best.setup}: {best.rows_per_second:,.0f} rows/s in batches of {best.rows}, "
            f"p99 {milliseconds(best.p99_seconds)} ms <= {milliseconds(target)} ms"
        )
        if best.calls < FEW_CALLS:
            lines.append(f"          but that p99 is the slowest of {best.calls} calls: a longer --budget tells more")
    return lines
