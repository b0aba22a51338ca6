"""setup.py names what the code imports, and nothing else."""

import ast
import importlib.metadata
import pathlib
import re
import runpy
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = {"benchmarks", "nif_jax", "configs", "launch", "tests"}

# Needed without an import: the text that shows the need.
INDIRECT = {
    "pyarrow": "read_parquet",  # pandas reads Parquet with it
    "array-record": '"array_record"',  # a format of tensorflow-datasets
}
# Of the test extra: used without an import, or by notebooks.
TOOLS = {"ruff", "ipykernel", "nbclient", "nbformat", "pytest-xdist"}


def _name(requirement):
    """ "Jax[tpu]>=1; marker" -> "jax"."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
    return re.sub(r"[-_.]+", "-", name).lower()


def _sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def _third_party(paths):
    """Names of the distributions that files import, wherever the import stands."""
    modules = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.partition(".")[0])
    distributions = importlib.metadata.packages_distributions()
    unknown = modules - sys.stdlib_module_names - OURS - distributions.keys()
    assert not unknown, f"imported, but not installed here: {unknown}"
    return {
        _name(distributions[module][0]) for module in modules - sys.stdlib_module_names - OURS
    }


@pytest.fixture
def arguments(monkeypatch):
    """What setup.py gives to setuptools, which a test environment need not have."""
    given = {}
    stub = types.ModuleType("setuptools")
    stub.setup = given.update
    stub.find_packages = lambda include: include
    monkeypatch.setitem(sys.modules, "setuptools", stub)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_every_import_is_required_and_every_requirement_is_used(arguments):
    required = {_name(line) for line in arguments["install_requires"]}
    sources = _sources("nif_jax", "configs")
    imported = _third_party(sources)
    assert imported - required == set(), "imported, but not in install_requires"
    text = "".join(path.read_text() for path in sources)
    indirect = {name for name, sign in INDIRECT.items() if sign in text}
    assert required - imported - indirect == set(), "in install_requires, but not used"


def test_the_test_extra_is_what_the_tests_need(arguments):
    required = {_name(line) for line in arguments["install_requires"]}
    extra = {_name(line) for line in arguments["extras_require"]["test"]}
    imported = _third_party(_sources("tests"))
    assert imported - required - extra == set(), "imported by tests, but not in the test extra"
    assert extra & required == set()
    assert extra - imported - TOOLS == set(), "in the test extra, but not used"


def test_every_requirement_has_a_lower_bound(arguments):
    groups = [arguments["install_requires"], *arguments["extras_require"].values()]
    assert [line for group in groups for line in group if ">=" not in line] == []


def test_version_is_the_packages(arguments):
    import nif_jax

    assert arguments["version"] == nif_jax.__version__


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in _sources("nif_jax", "configs")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_files_that_are_not_python_are_package_data(arguments):
    files = [p for f in ("nif_jax", "configs") for p in (ROOT / f).rglob("*") if p.is_file()]
    others = {path for path in files if path.suffix not in (".py", ".pyc")}
    shipped = {path for package, patterns in arguments["package_data"].items()
               for pattern in patterns
               for path in (ROOT / package.replace(".", "/")).glob(pattern)}  # fmt: skip
    assert others == shipped, "add them to package_data in setup.py"
