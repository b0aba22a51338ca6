"""The package graph of nif_jax: few arrows, all of them pointing down."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1] / "nif_jax"

# What a package may import of nif_jax; a package may import itself. The order is that of the
# layers, the highest first: no package imports one above it.
ALLOWED = {
    "main": ["inference", "experiment", "reports", "training.devices"],
    "inference": [
        "experiment",
        "serving",
        "requests",
        "stages",
        "variants",
        "models.baselines",
        "models",
        "data",
    ],
    "experiment": [
        "simulation",
        "reports",
        "stages",
        "training",
        "training.devices",
        "config",
        "variants",
        "models",
        "metrics",
        "data.preparation",
        "data.sources",
        "data",
    ],
    "simulation": ["stages", "training", "metrics", "data.sources", "data"],
    "reports": ["config", "variants", "metrics", "data"],
    "stages": [
        "training",
        "training.devices",
        "config",
        "variants",
        "models",
        "models.baselines",
        "losses",
        "metrics",
        "data.preparation",
        "data",
    ],
    "training": ["training.devices", "config", "metrics", "data.preparation", "data"],
    "training.devices": ["data"],
    "config": ["variants"],
    "variants": ["data"],
    "serve": ["serving", "requests", "data"],
    "serving": ["requests", "metrics", "data"],
    "requests": ["data"],
    "models.baselines": ["models", "data"],
    "models": ["data"],
    "losses": [],
    "metrics": ["data"],
    "data.preparation": ["data.sources", "data"],
    "data.sources": ["data"],
    "data": [],
}


def _modules() -> dict[str, pathlib.Path]:
    """Dotted name below nif_jax -> file."""
    paths = (p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")
    return {".".join(p.with_suffix("").relative_to(ROOT).parts): p for p in paths}


def _package(module: str) -> str:
    """The folder of a module, or the module itself at the root."""
    return module.removesuffix(".__init__").rpartition(".")[0] if "." in module else module


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("nif_jax.") for name in found if name.startswith("nif_jax.")}


def package_graph() -> set[tuple[str, str]]:
    """(package, imported package) of different packages."""
    modules, edges = _modules(), set()
    for module, path in modules.items():
        own = module.removesuffix(".__init__") if module.endswith("__init__") else _package(module)
        for name in _imports(path):
            while name and name not in modules and f"{name}.__init__" not in modules:
                name = name.rpartition(".")[0]
            target = name if f"{name}.__init__" in modules else _package(name)
            if name and target != own:
                edges.add((own, target))
    return edges


def test_the_graph_is_small_and_points_down():
    edges = package_graph()
    nodes = sorted({package for edge in edges for package in edge})
    print(f"{len(nodes)} packages, {len(edges)} imports")
    for node in nodes:
        print(node, "->", ", ".join(sorted(target for own, target in edges if own == node)))
    assert len(nodes) <= 20 and len(edges) <= 65
    order = list(ALLOWED)
    assert all(order.index(own) < order.index(target) for own, target in edges)
    assert edges == {(own, target) for own, targets in ALLOWED.items() for target in targets}


def test_the_root_holds_entry_config_and_variants():
    assert sorted(p.stem for p in ROOT.glob("*.py")) == ["__init__", "config", "main", "variants"]


def test_every_module_has_a_docstring():
    for path in ROOT.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_configs_import_only_what_configs_share():
    for path in sorted((ROOT.parent / "configs").rglob("*.py")):
        assert not _imports(path), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                module = node.module.partition(".")[0]
                assert module in ("configs", "ml_collections", "collections", "typing"), path
