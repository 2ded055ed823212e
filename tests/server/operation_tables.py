"""The tables of docs/operation.md, from the code. This writes them:

python -m tests.server.operation_tables
"""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from server.config import PREFIX, is_secret, shown_default
from server.metrics import PrometheusObserver
from server.settings import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "operation.md"


def settings_table() -> str:
    """Every setting: its environment variable, default and meaning. Its flag and its YAML key follow from the name."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = " ".join((field.description or "").split())
        note = " No flag: it would show in the list of processes." if is_secret(field) else ""
        rows.append(f"| `{PREFIX}{name.upper()}` | `{shown_default(field)}` | {meaning}{note} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric of our own: name, type and meaning."""
    rows = ["| metric | type | meaning |", "|---|---|---|"]
    for family in text_string_to_metric_families(PrometheusObserver().render(ready=True).decode()):
        if family.name.startswith("neurotrails_") and not family.name.endswith("_created"):
            suffix = "_total" if family.type == "counter" else ""
            rows.append(f"| `{family.name}{suffix}` | {family.type} | {family.documentation} |")
    return "\n".join(rows)


def with_tables(document: str) -> str:
    """Put the tables into a document, between its markers."""
    for name, table in (("settings", settings_table()), ("metrics", metrics_table())):
        pattern = re.compile(f"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        document, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", document)  # type: ignore[misc]
        assert count == 1, name
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
