"""setup.py names what the code imports, and a wheel holds what it needs, and nothing else."""

import ast
import importlib.metadata
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = {"benchmarks", "nif_jax", "configs", "launch", "tests"}

# Needed without an import: the text that shows the need.
INDIRECT = {
    "pyarrow": "read_parquet",  # pandas reads Parquet with it
    "array-record": '"array_record"',  # a format of tensorflow-datasets
    "flatbuffers": "import jax.export",  # serialises programs with it
}
# Modules of the extra `onnx`, and their distributions: it is not a part of the test extra, because
# jax2onnx needs an older orbax-checkpoint. Its tests are skipped where it is not installed.
APART = {"jax2onnx", "onnx", "onnxruntime"}
# Of the test extra: used without an import, or by notebooks.
TOOLS = {
    "codespell",
    "ipykernel",
    "mypy",
    "nbclient",
    "nbformat",
    "pytest-xdist",
    "ruff",
    "setuptools",
}


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
    distributions = {name: [name] for name in APART} | importlib.metadata.packages_distributions()
    unknown = modules - sys.stdlib_module_names - OURS - distributions.keys()
    assert not unknown, f"imported, but not installed here: {unknown}"
    return {_name(distributions[module][0]) for module in modules - sys.stdlib_module_names - OURS}


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


def _optional(arguments):
    extras = arguments["extras_require"]
    return {_name(line) for line in extras["bench"] + extras["search"] + extras["serve"]}


def test_every_import_is_required_and_every_requirement_is_used(arguments):
    required = {_name(line) for line in arguments["install_requires"]}
    sources = _sources("nif_jax", "configs")
    imported = _third_party(sources)
    optional = _optional(arguments)
    assert {_name(line) for line in arguments["extras_require"]["onnx"]} == APART
    optional |= APART
    assert imported - required - optional == set(), "imported, but not in install_requires"
    assert optional <= imported, "in the extra `bench`, `search`, `serve` or `onnx`, but not used"
    text = "".join(path.read_text() for path in sources)
    indirect = {name for name, sign in INDIRECT.items() if sign in text}
    assert required - imported - indirect == set(), "in install_requires, but not used"


def test_the_test_extra_is_what_the_tests_need(arguments):
    required = {_name(line) for line in arguments["install_requires"]}
    extra = {_name(line) for line in arguments["extras_require"]["test"]}
    imported = _third_party(_sources("tests"))
    assert imported - required - extra == set(), "imported by tests, but not in the test extra"
    assert extra & required == set()
    optional = _optional(arguments)
    assert optional <= extra, "tests of optional packages would be skipped"
    assert extra - imported - optional - TOOLS == set(), "in the test extra, but not used"


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
    shipped = {
        path
        for package, patterns in arguments["package_data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert others == shipped, "add them to package_data in setup.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what a wheel of this checkout installs."""
    pytest.importorskip("setuptools", minversion="77")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("nif_jax", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for file in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "wheel"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={built}"]
    subprocess.run([*pip, *options, str(source)], check=True, timeout=300)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


def test_a_wheel_installs_one_package_with_every_module(site):
    names = {path.name for path in site.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"nif_jax"}
    files = {str(p.relative_to(site)) for p in (site / "nif_jax").rglob("*") if p.is_file()}
    modules = {str(p.relative_to(ROOT)) for p in _sources("nif_jax")}
    configs = {f"nif_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    data = {str(p.relative_to(ROOT)) for p in (ROOT / "nif_jax").rglob("*") if p.is_file()}
    data = {name for name in data if not name.endswith((".py", ".pyc"))}
    assert files == modules | configs | data


LOAD = """
import sys
from ml_collections.config_flags import config_flags
before = list(sys.path)
flag = config_flags.DEFINE_config_file("config", sys.argv[1])
from absl import flags
flags.FLAGS(["test"])
assert sys.path == before, "the config changed sys.path"
print(*flags.FLAGS.config.rows)
"""


@pytest.mark.parametrize("name", ["base", "nif", "genci", "hybrid"])
@pytest.mark.parametrize("installed", [True, False], ids=["wheel", "checkout"])
def test_a_config_is_loaded_by_its_path_from_any_directory(site, tmp_path, name, installed):
    folder = site / "nif_jax" if installed else ROOT
    # A package of that name in the current directory does not take the place of ours.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    command = [sys.executable, "-c", LOAD, f"{folder}/configs/{name}.py:synthetic,smoke"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("base")


def test_main_of_a_wheel_reports_a_wrong_word_in_one_line(site, tmp_path):
    config = f"--config={site}/nif_jax/configs/nif.py:synthetci"
    command = [sys.executable, "-c", "from nif_jax.main import run; run()", config]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1
    assert "Did you mean 'synthetic'?" in ran.stderr and "Traceback" not in ran.stderr
