"""Builds and loads the library that makes the CPU wheel of torch accept a CUDA device. Imports no torch."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILERS = ("c++", "g++", "clang++")
WHEEL_LIBRARIES = ("libgomp*", "libc10.so", "libtorch_cpu.so")  # in the order they need each other


def wheel() -> Path:
    """The folder of the installed torch."""
    spec = importlib.util.find_spec("torch")
    assert spec and spec.origin, "torch is not installed"
    return Path(spec.origin).parent


def missing() -> str:
    """Why the library cannot be built here, or ""."""
    if not any(shutil.which(name) for name in COMPILERS):
        return f"no C++ compiler ({', '.join(COMPILERS)})"
    if (wheel() / "lib/libtorch_cuda.so").exists():
        return "torch is a CUDA wheel: it has a device guard of its own"
    return "" if (wheel() / "lib/libtorch_cpu.so").exists() else "torch is no Linux wheel"


def build(folder: Path) -> Path:
    """The library in `folder`, compiled against torch's own headers; takes 2 s."""
    library = folder / "libfake_cuda_guard.so"
    compiler = next(path for name in COMPILERS if (path := shutil.which(name)))
    subprocess.run(
        [
            compiler,
            *("-shared", "-fPIC", "-O0", "-w", "-std=c++20"),
            f"-I{wheel() / 'include'}",
            str(SOURCE),
            "-o",
            str(library),
        ],
        check=True,
    )
    return library


def load(library: Path) -> None:
    """Load it before torch is imported: autograd counts the devices once, at the first backward pass."""
    for pattern in WHEEL_LIBRARIES:
        for path in sorted((wheel() / "lib").glob(pattern)):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
