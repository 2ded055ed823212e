"""Where the limits of this process's control groups lie."""

from pathlib import Path


def group_folders(root: Path, controller: str, mounts: tuple[str, ...]) -> list[Path]:
    """Folders of this process's cgroup and of those above it, the innermost first; the tightest limit of all binds.

    `controller` is that of cgroup v1, or '' for v2; `mounts` are the folders below /sys/fs/cgroup in which its
    hierarchy may lie. `root` is the root of the file system that holds /proc and /sys. The folders need not exist.
    """
    return [
        folder
        for path in _paths(root, controller)
        for mount in mounts
        for folder in _with_parents(root / "sys/fs/cgroup" / mount, path)
    ]


def read_limit(file: Path) -> str:
    """Content of a file of a cgroup; empty where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _paths(root: Path, controller: str) -> list[str]:
    """Paths of this process's cgroup in the hierarchy of `controller`, from /proc/self/cgroup."""
    lines = read_limit(root / "proc/self/cgroup").splitlines()
    entries = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    return [path for _, controllers, path in entries if controller in controllers.split(",")]


def _with_parents(base: Path, path: str) -> list[Path]:
    folder = base / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == base or base in parent.parents)]
