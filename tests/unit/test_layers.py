"""Layers of the package: imports go one way, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "src" / "longtake"
LAYERS: Final = (
    ("commands",),
    ("errors", "paths", "tables"),
    ("plugins",),
    ("ready_configs", "listings"),
    ("quick_help", "streams"),
    ("processor", "threads"),
    ("task",),
    ("schedulers",),
    ("noise",),
    ("caches",),
    ("guidance", "reuse"),
    ("models",),
    ("plan",),
    ("comm",),
    ("strategies",),
    ("framework",),
    ("demo",),
    ("testing",),
    ("api",),
)
"""Packages and modules of ``longtake``, lowest first. A module imports from its own and lower
ones."""
ROOMS: Final = {
    "plan": ("", "ir", "check", "cost", "search"),
    "strategies": ("exchange", "pipedit", "runtime", ""),
    "framework": ("engine", "console", "launch", "writers", "callbacks", ""),
}
"""Rooms inside a package in the same order; the empty name is the package's own modules."""
BESIDE: Final = {"comm": ("plan", "models", "caches", "noise", "schedulers", "task")}
"""Lower packages that a package does without all the same."""
FREE: Final = ("__init__", "__main__")
"""Modules of ``longtake`` itself that stand above all layers."""
MODULES: Final = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)


def imports_of(module: str) -> Iterator[str]:
    """Yield what a module imports from longtake, as dotted names below it."""
    tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name.startswith("longtake."):
                    yield name.removeprefix("longtake.")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("longtake."):
                    yield alias.name.removeprefix("longtake.")


def layer_of(name: str) -> int | None:
    """Return a dotted name's layer; ``None`` for what the top of the package says of itself."""
    top = name.split(".")[0]
    return next((level for level, names in enumerate(LAYERS) if top in names), None)


def room_of(name: str) -> str:
    """Return the room of its package that a dotted name is in."""
    package, _, rest = name.partition(".")
    room = rest.split(".")[0]
    return room if room in ROOMS[package] else ""


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in MODULES if layer_of(name) is None and name not in FREE]
    assert not homeless


@pytest.mark.parametrize("module", [name for name in MODULES if name not in FREE])
def test_imports_go_down(module: str) -> None:
    own = layer_of(module)
    assert own is not None
    upward = [name for name in imports_of(module) if (layer_of(name) or 0) > own]
    assert not upward, f"{module} imports from higher packages"


@pytest.mark.parametrize("package", BESIDE)
def test_packages_that_do_without_others(package: str) -> None:
    found = [
        f"{module} imports {name}"
        for module in MODULES
        if module.startswith(f"{package}.")
        for name in imports_of(module)
        if name.split(".")[0] in BESIDE[package]
    ]
    assert not found


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_go_down_too(package: str) -> None:
    rooms = ROOMS[package]
    found = [
        f"{module} imports {name}"
        for module in MODULES
        if module.startswith(f"{package}.") and module != f"{package}.__init__"
        for name in imports_of(module)
        if name.startswith(f"{package}.")
        and rooms.index(room_of(name)) > rooms.index(room_of(module))
    ]
    assert not found


def test_the_engine_needs_no_lightning() -> None:
    for module in MODULES:
        if not module.startswith("framework.") or room_of(module) == "engine":
            source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()
            names = {
                name.split(".")[0]
                for node in ast.walk(ast.parse(source))
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert "lightning" not in names, f"{module} imports Lightning"


def test_unit_tests_mirror_the_source() -> None:
    """A folder of tests is a package of the source; those of the tools are beside."""
    here = Path(__file__).parent
    folders = {path.parent.relative_to(here) for path in here.rglob("test_*.py")}
    strange = [folder for folder in folders if not (PACKAGE / folder).is_dir()]
    assert strange == [Path("tools")]
