"""The commands in benchmarks/, which is in no package, for tests."""

import importlib.util
from pathlib import Path
from types import ModuleType


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
