"""Arrows between modules point one way (architecture: main -> pipeline -> stages -> models ...)."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nif_jax"

# What a module may import of nif_jax, by prefix; first match counts.
ALLOWED = {
    "data": ["data", "files"],
    "models": ["models", "data.schema", "data.windows", "data.dataset.OOV"],
    "losses": ["losses"],
    "files": [],
    "metrics": ["files", "metrics"],
    "reports": ["reports", "files", "metrics", "rows", "config_keys"],
    "stages": ["stages.interface", "stages.flow_source", "stages.genci", "models", "losses",
               "metrics", "data"],
    "parallel": [],
    "train_state": [],
    "optim": [],
    "config_keys": ["rows"],
    "identity": ["data", "files"],
    "checkpoint": ["checkpoint_meta", "config_keys", "parallel"],
    "checkpoint_meta": ["config_keys", "files", "identity"],
    "claims": ["config_keys", "data.schema", "files", "identity", "parallel", "reports.workdirs"],
    "workdir_lock": ["files", "reports.workdirs"],
    "step": ["train_state", "parallel", "stages.interface"],
    "scoring": ["data", "parallel"],
    "flows": ["data", "models", "parallel"],
    "train": ["checkpoint", "data.input", "metrics.writer", "parallel", "stages.interface", "step",
              "train_state"],
    "rows": ["data.schema"],
    "selection": ["data.schema", "rows"],
    "tokens": ["data.schema", "metrics", "models"],
    "run_context": ["config_keys", "data", "identity", "metrics", "parallel"],
    "setting_kinds": [],
    "setting_relations": ["config_keys", "data.schema", "rows", "selection"],
    "settings": ["config_keys", "data.schema", "rows", "selection", "setting_kinds",
                 "setting_relations"],
    "step_counts": ["data.schema", "run_context"],
    "build_rows": ["build", "data", "models", "parallel", "rows", "run_context", "scoring",
                   "stages", "step_counts", "tokens"],
    "build": ["data", "losses", "metrics", "models", "optim", "parallel", "run_context", "scoring",
              "stages", "step_counts"],
    "pipeline": ["build", "build_rows", "checkpoint", "checkpoint_meta", "data.schema",
                 "data.splits", "flows", "identity", "models", "rows", "run_context", "scoring",
                 "selection", "tokens", "train", "train_state"],
    "truth": ["data", "metrics", "run_context", "scoring", "stages"],
    "evaluation": ["truth", "build", "build_rows", "pipeline", "data", "metrics", "reports",
                   "rows", "run_context", "scoring", "stages", "tokens"],
    "pictures": ["build_rows", "evaluation", "metrics", "reports", "rows", "run_context",
                 "scoring"],
    "ab": ["build", "build_rows", "data", "files", "metrics", "parallel", "pipeline", "reports",
           "run_context", "scoring", "truth"],
    "runner": ["ab", "claims", "pipeline", "evaluation", "checkpoint", "config_keys", "data",
               "files", "identity", "metrics", "parallel", "pictures", "reports", "rows",
               "run_context", "selection", "settings", "train", "workdir_lock"],
    "flag_errors": [],
    "user_errors": [],
    "main": ["flag_errors", "parallel", "reports", "runner", "user_errors"],
}  # fmt: skip
# `from nif_jax.stages.base import ...` in finetune would make stages depend on each other;
# stages.flow_source and stages.genci are no stages, but halves of finetune.


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("nif_jax.") for name in found if name.startswith("nif_jax.")}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_module_imports_only_what_its_place_allows(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if module.endswith("__init__") and "." not in module:
        assert not imports(path)
        return
    prefix = next(p for p in ALLOWED if module == p or module.startswith(p + "."))
    for name in imports(path):
        assert any(name == a or name.startswith(a + ".") for a in ALLOWED[prefix]), name


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_configs_import_only_what_configs_share(path):
    assert not imports(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module.partition(".")[0]
            assert module in ("configs", "ml_collections", "collections", "typing")


def test_nothing_imports_main():
    assert not any(n.startswith("main") for p in PACKAGE.rglob("*.py") for n in imports(p))
