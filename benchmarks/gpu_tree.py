"""Builds the folder that `gpu_check.py` runs from, on a machine with a GPU and without a network.

    python benchmarks/gpu_tree.py [--to dist/gpu] [--python 3.12]

It has Batchmill's wheel, the wheels that it needs for that version of Python, small models with weights of chance, and
the check itself. That machine has what is large: torch, transformers, sentence-transformers, numpy and pyarrow.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 64 * 1024 * 1024
INSTALLED_THERE = ("numpy", "pyarrow")
GLIBC = ("2_34", "2_31", "2_28", "2_27", "2_24", "2_17")
PLATFORMS = [*(f"manylinux_{version}_x86_64" for version in GLIBC), "manylinux2014_x86_64", "manylinux1_x86_64"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "dist" / "gpu")
    parser.add_argument("--python", default="3.12", help="the version there")
    options = parser.parse_args()
    shutil.rmtree(options.to, ignore_errors=True)
    build(options.to, options.python)
    size = sum(path.stat().st_size for path in options.to.rglob("*") if path.is_file())
    print(f"{options.to}: {size / 1024 / 1024:.1f} MiB")
    if size > MAX_BYTES:
        raise SystemExit(f"it has {size} bytes, more than {MAX_BYTES}")


def build(folder: Path, python: str) -> None:
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    (own,) = wheels.glob("batchmill-*.whl")
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    pip(
        "download",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
        *platforms,
        f"--constraint={ROOT / 'constraints.txt'}",
        f"--dest={wheels}",
        f"batchmill[gpu,local] @ {own.as_uri()}",
    )
    for name in INSTALLED_THERE:
        for wheel in wheels.glob(f"{name}-*.whl"):
            wheel.unlink()
    subprocess.run([sys.executable, ROOT / "tests" / "support" / "hf_models.py", folder / "models"], check=True)
    shutil.copy(ROOT / "benchmarks" / "gpu_check.py", folder)


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


if __name__ == "__main__":
    main()
