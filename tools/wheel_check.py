"""Checks what users install: builds sdist and wheel, and makes a video with the wheel alone.

    python tools/wheel_check.py

The wheel is built from the sdist and installed in a new virtual environment, which sees the other
packages of the environment that runs this file (so torch is not installed twice), but not the
checkout. The command runs in an empty folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "longtake"
CONFIGS: Final = "longtake/assets/configs"
"""Where the files of ``configs/`` are in a wheel."""
DEMO: Final = ("--data.num_frames", "17", "--model.steps", "2")


def packaged() -> set[str]:
    """Return every file that a wheel must hold, relative to ``site-packages``."""
    listed = subprocess.run(
        ["git", "ls-files", "src/longtake"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = {name.removeprefix("src/") for name in listed.stdout.splitlines()}
    configs = ROOT / "configs"
    files = (file for file in configs.rglob("*") if file.is_file())
    return found | {f"{CONFIGS}/{file.relative_to(configs).as_posix()}" for file in files}


def build(into: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it; return both."""
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(ROOT))
    [sdist], [wheel] = into.glob("*.tar.gz"), into.glob("*.whl")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Refuse archives that lack a file of the package, or hold what is none.

    Raises:
        SystemExit: Names the files.
    """
    wanted = packaged()
    assert {"longtake/py.typed", "longtake/assets/demo_model/model_index.json"} <= wanted
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("longtake/")}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    lacking = {f"wheel: {name}" for name in wanted - inside}
    sources = {name: f"src/{name}".replace(f"src/{CONFIGS}", "configs") for name in wanted}
    lacking |= {f"sdist: {name}" for name, source in sources.items() if source not in names}
    if lacking or inside - wanted:
        raise SystemExit(f"lacking: {sorted(lacking)}; not wanted: {sorted(inside - wanted)}")


def install(wheel: Path, into: Path) -> Path:
    """Install a wheel in a new environment beside this one's packages; return its Python."""
    venv.create(into, with_pip=False)
    python = into / "bin" / "python"
    site = Path(
        _run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    target = ("--target", str(site), "--no-deps", "--no-index", str(wheel))
    _run(sys.executable, "-m", "pip", "install", "--quiet", *target)
    # A path in a .pth comes behind the environment's own packages, and its own .pth files, which
    # name the checkout, are not read.
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python


def run_demo(python: Path, folder: Path) -> None:
    """Make a short video in an empty folder with an installed longtake.

    Raises:
        SystemExit: It is the checkout's longtake that runs, or there is no video.
    """
    folder.mkdir()
    where = _run(str(python), "-c", "import longtake; print(longtake.__file__)", cwd=folder)
    if Path(where.strip()).is_relative_to(ROOT):
        raise SystemExit(f"the longtake that runs is {where.strip()}, not the wheel's")
    command = ("-m", "longtake", "predict", "--config", "demo", "--output", "out", *DEMO)
    _run(str(python), *command, cwd=folder)
    video = folder / "out" / "0000" / "video.mp4"
    if not video.is_file() or not video.stat().st_size:
        raise SystemExit("the wheel's longtake has made no video")


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done: Sequence[str] = command
    return subprocess.run(
        done, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    """Build, look inside, install, make a video."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = build(folder / "dist")
        check_contents(sdist, wheel)
        run_demo(install(wheel, folder / "venv"), folder / "run")
        print(f"{sdist.name} and {wheel.name}: complete, and the wheel makes a video")


if __name__ == "__main__":
    main()
