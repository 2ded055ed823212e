"""The architecture, as rules that hold: imports point one way, and PyTorch stays where it belongs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "training": {"training", "runtime"},
    "export": {"export", "training", "runtime"},
    "server": {"server", "runtime"},
}
SERVER_ROWS = [
    {"settings", "errors", "work", "config", "client", "keys", "logs"},
    {"metrics", "schema", "admission"},
    {"catalog", "serving_file", "decode", "compression", "batcher", "models", "reconcile", "middleware", "routing"},
    {"core", "oip"},
    {"predict_api", "oip_api", "page_api", "admin_api", "admin_port"},
    {"app", "process", "protocol"},
]
"""Files and packages of the server from the lowest row up; one imports only from rows below its own, or its own row."""


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found.add(node.module or "")
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        ours = {name.split(".")[0] for name in imports(path)} & {*MAY_IMPORT, "benchmarks", "neurotrails", "tests"}
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


@pytest.mark.parametrize("package", ["runtime", "server"])
def test_pytorch_is_imported_only_under_training_and_export(package: str) -> None:
    for path in sources(package):
        assert not {name for name in imports(path) if name.split(".")[0] in ("torch", "torchmetrics", "datasets")}, path


def test_the_server_knows_nothing_of_onnx_and_prometheus_has_one_place() -> None:
    for path in sources("server"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"onnx", "onnxruntime", "deepsparse", "openvino"}, path
        assert "prometheus_client" not in roots or path.name == "metrics.py", path


def test_server_files_import_only_from_rows_below() -> None:
    rank = {name: row for row, names in enumerate(SERVER_ROWS) for name in names}
    part = {path: path.relative_to(ROOT / "server").with_suffix("").parts[0] for path in sources("server")}
    assert set(rank) | {"__init__"} == set(part.values())
    for path in sources("server"):
        for name in imports(path):
            if name.startswith("server."):
                assert rank[name.split(".")[1]] <= rank[part[path]], f"{path.name} imports {name}"


def test_every_package_says_what_lives_there() -> None:
    for package in MAY_IMPORT:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            assert len(ast.get_docstring(ast.parse(init.read_text())) or "") > 60, init
