"""The verb `inspect`.

neurotrails inspect models/fashion-mnist
neurotrails inspect models/fashion-mnist --html fashion-mnist.html
neurotrails inspect models/fashion-mnist --json | jq .density
neurotrails inspect models/fashion-mnist --plan --heads 1
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.errors import EngineError, InspectionError
from runtime.inspection import listing
from runtime.inspection.contents import examine


def inspect(
    artifact: str,
    *,
    html: str | None = None,
    plan: bool = False,
    heads: int | None = None,
    cores: int | None = None,
    json: bool = False,
) -> None:
    """Show what an artifact holds: labels, heads, layers, sizes, work, calibration, quality, origin.

    Args:
        artifact: Folder of the artifact.
        html: Write one self-contained page to this file instead. It may replace a page of this command, nothing else.
        plan: Show instead how the native engine computes it, with predicted and measured time for each layer.
        heads: Plan the trunk and this many heads. Default: all.
        cores: Cores to plan for and to measure on. Default: all that this process may use.
        json: Print JSON, with the whole manifest or all layers of the plan in it.

    Raises:
        ArtifactError: The artifact is not what it says.
        InspectionError: The options contradict each other, or the page cannot be written.
        AlreadyExists: The page would replace something else.
        EngineError: There is no plan with so many heads or cores, or the native engine cannot run here or run this.
    """
    if not plan and (heads is not None or cores is not None):
        raise EngineError("--heads and --cores choose what to plan; add --plan.")
    if html is not None and (plan or json):
        raise InspectionError(f"--html writes a page; leave out {'--plan' if plan else '--json'}.")
    found = Artifact.open(artifact)
    if plan:
        from runtime.inspection import plan as planning  # imports the native engine, which may not be installed

        report = planning.examine(found, heads=heads, cores=core_budget().cores if cores is None else cores)
        _show(report, planning.render(report), json=json)
    elif html is not None:
        from runtime.inspection import page

        size = page.write(page.render(examine(found)), Path(html), found.folder)
        print(f"{html}: {size:,} bytes")
    else:
        inspection = examine(found)
        _show(inspection, listing.render(inspection), json=json)


def _show(found: Any, lines: list[str], *, json: bool) -> None:
    """Print a dataclass as JSON, or the lines that show it."""
    print(TypeAdapter(dict[str, Any]).dump_json(asdict(found), indent=2).decode() if json else "\n".join(lines))
