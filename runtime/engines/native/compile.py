"""Machine code of the kernels: LLVM for one instruction set, and a cache on disk that is safe to execute from."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding as llvm

from runtime.caches import cache_folder, is_private, make_private
from runtime.engines.native.kernels.library import KERNELS, build_module
from runtime.engines.native.machine import InstructionSet
from runtime.errors import EngineError

OPTIMISATION = 2
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Library:
    """Compiled kernels; addresses by name stay valid as long as this object lives."""

    instruction_set: InstructionSet
    addresses: dict[str, int]
    execution_engine: Any


def instruction_sets() -> dict[str, InstructionSet]:
    """Everything this machine can execute, by name, the fastest first."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if not llvm.get_process_triple().startswith("x86_64"):
        features = llvm.get_host_cpu_features().flatten()
        return {"generic": InstructionSet("generic", llvm.get_host_cpu_name(), features, 8)}
    features = llvm.get_host_cpu_features()
    found = []
    if all(features.get(name) for name in ("avx512f", "avx512vl", "avx512bw", "avx512dq")):
        cpu = llvm.get_host_cpu_name()
        found.append(InstructionSet("avx512", cpu, f"{features.flatten()},-prefer-256-bit", 32))
    if features.get("avx2") and features.get("fma"):
        found.append(InstructionSet("avx2", "haswell", "", 8))
    found.append(InstructionSet("generic", "x86-64", "", 4))
    return {one.name: one for one in found}


@cache
def library(name: str) -> Library:
    """Compile the kernels for an instruction set of `instruction_sets()`, or load them from the cache."""
    return load_library(name, cache_folder("native"))


def load_library(name: str, folder: Path | None) -> Library:
    """As `library`, with the cache in `folder`, if any. Raises EngineError for a name that this machine lacks."""
    available = instruction_sets()
    if name not in available:
        raise EngineError(f"This machine cannot execute {name!r}. Choose one of: {', '.join(available)}.")
    target = available[name]
    key = _key(target)
    code = None if folder is None else _read_cached(folder, key)
    if code is None:
        code = _compile(build_module(target), target)
        if folder is not None:
            _write_cached(folder, key, code)
    empty = llvm.parse_assembly("")
    execution_engine = llvm.create_mcjit_compiler(empty, _machine(target))
    execution_engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    execution_engine.finalize_object()
    names = (*KERNELS, "run", "work")
    addresses = {name: int(execution_engine.get_function_address(name)) for name in names}
    return Library(target, addresses, execution_engine)


def cached_sets(folder: Path) -> tuple[str, ...]:
    """Instruction sets of this machine whose kernels, as they are now, lie in the cache and would be loaded."""
    targets = instruction_sets().values()
    return tuple(target.name for target in targets if _read_cached(folder, _key(target)) is not None)


def _key(target: InstructionSet) -> str:
    """Hash of all that the machine code depends on: our sources, as making LLVM IR from them takes time."""
    here = Path(__file__).parent
    sources = [path.read_bytes() for path in (*sorted(here.glob("kernels/*.py")), here / "emitter.py", Path(__file__))]
    versions = f"{llvmlite.__version__} {llvm.llvm_version_info} {llvm.get_process_triple()} {target}"
    return hashlib.sha256(b"".join([versions.encode(), *sources])).hexdigest()


def _machine(target: InstructionSet) -> Any:
    triple = llvm.Target.from_triple(llvm.get_process_triple())
    return triple.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )


def _compile(source: str, target: InstructionSet) -> bytes:
    module = llvm.parse_assembly(source)
    module.verify()
    machine = _machine(target)
    options = llvm.create_pipeline_tuning_options(speed_level=OPTIMISATION)
    # The kernels are vectors already; unrolling the stream loop only makes it larger than the decoder likes.
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_unrolling = options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def _read_cached(folder: Path, key: str) -> bytes | None:
    """Return the cached object if the folder is ours alone, as what it holds is executed, and the content is sound."""
    if not is_private(folder):
        return None
    try:
        content = (folder / key).read_bytes()
    except OSError:
        return None
    digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return code if hashlib.sha256(key.encode() + code).digest() == digest else None


def _write_cached(folder: Path, key: str, code: bytes) -> None:
    """Store an object; where that is not possible or not safe, the code stays in memory only."""
    try:
        if not make_private(folder):
            return
        descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(key.encode() + code).digest() + code)
        Path(partial).rename(folder / key)
    except OSError:
        return
