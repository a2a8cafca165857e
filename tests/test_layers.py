"""The layer rule, kept by reading the imports of every module: lower layers only.

Layers 0 to 4 also leave compilation, printing, files and clocks to their caller.
"""

import ast
import sys
from pathlib import Path

import pytest

import kltrust

ROOT = Path(kltrust.__file__).parent
LAYERS = {
    "types": 0,
    "tree": 0,
    "checks": 0,
    "numerics": 0,
    "discrete": 1,
    "estimators": 1,
    "masks": 1,
    "divergences": 1,
    "losses": 1,
    "sequences": 1,
    "advantages": 1,
    "fisher": 1,
    "solvers": 1,
    "recurrent": 1,
    "orthogonal": 1,
    "cells": 2,
    "dense": 2,
    "networks": 2,
    "environments": 2,
    "rollout": 2,
    "normalization": 2,
    "minibatch": 2,
    "acting": 2,
    "experience": 2,
    "algorithms": 3,
    "audit": 3,
    "critic": 3,
    "starts": 3,
    "learner": 4,
    "tabular": 4,
    "experiments": 5,
    "results": 6,  # a door to what the experiments leave
}
"""Of every part of the package. A part may import itself and all parts of lower layers."""

SAME_LAYER = {
    ("tree", "types"),
    ("numerics", "types"),
    ("divergences", "discrete"),  # one door to all of them
    ("divergences", "estimators"),
    ("sequences", "discrete"),
    ("sequences", "estimators"),  # token by token
    ("networks", "cells"),
    ("networks", "dense"),
    ("acting", "rollout"),  # of an agent
    ("acting", "normalization"),
    ("losses", "divergences"),  # an entropy is an entropy
    ("algorithms", "audit"),  # the ratio that is measured is the ratio that is optimised
}
"""The documented exceptions, as (importer, imported)."""

FORBIDDEN_PARTS = {("algorithms", "environments"), ("algorithms", "rollout")}
"""Lower layers that a part is to know nothing about all the same."""

ADAPTED = {"brax", "craftax", "jumanji", "mujoco_playground", "navix", "pgx"}
"""Libraries of environments, each imported by its own adapter alone."""

DRAWING = {"matplotlib", "mujoco"}
"""What draws an environment's states, imported when a picture is asked for."""

LIBRARIES = {
    0: {"jax", "numpy", "chex"},
    1: {"jax", "numpy", "chex", "distrax"},
    2: {"jax", "numpy", "chex", "distrax", "flax", "optax", "gymnax", *ADAPTED, *DRAWING},
    3: {"jax", "numpy", "chex", "distrax", "optax"},
    4: {"jax", "numpy", "chex", "distrax", "optax"},
}
CLOCKS_AND_FILES = {"time", "datetime", "io", "os", "pathlib", "shutil", "tempfile", "subprocess"}


def part_of(module: str) -> str:
    """The part of the package that a dotted module name belongs to; "" for the package itself."""
    return [*module.split("."), ""][1]


def imports(tree: ast.AST) -> set[str]:
    """The dotted names of all modules imported, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "kltrust":
                found |= {f"kltrust.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def effects(tree: ast.AST) -> set[str]:
    """Compilation, printing and file access, by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap", "debug", "io_callback"):
            found.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jax"):
            found |= {a.name for a in node.names} & {"jit", "pmap", "debug", "io_callback"}
        if isinstance(node, ast.Name) and node.id in ("print", "open", "input", "breakpoint"):
            found.add(node.id)
    return found


def violations(part: str, source: str) -> list[str]:
    """What a module of this part does that it must not."""
    tree, layer = ast.parse(source), LAYERS[part]
    found = []
    for module in sorted(imports(tree)):
        top = module.split(".")[0]
        other = part_of(module)
        if top == "kltrust":
            lower = LAYERS.get(other, 99) < layer
            # The command line may use the library as its users do.
            same = other == part or (part, other) in SAME_LAYER or (layer == 5 and not other)
            if not (lower or same) or (part, other) in FORBIDDEN_PARTS:
                found.append(f"imports {module}")
        elif top in sys.stdlib_module_names:
            if layer < 5 and top in CLOCKS_AND_FILES:
                found.append(f"imports {module}")
        elif layer < 5 and top not in LIBRARIES[layer]:
            found.append(f"imports {module}")
    if layer < 5:
        found += [f"uses {name}" for name in sorted(effects(tree))]
    return found


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_stays_within_its_layer(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert part in LAYERS, f"{part} has no layer: give it one"
    assert violations(part, path.read_text()) == []


def test_the_package_itself_imports_only_the_standard_library():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert {name.split(".")[0] for name in imports(tree)} <= sys.stdlib_module_names


def test_the_exceptions_are_within_one_layer():
    assert all(LAYERS[importer] == LAYERS[other] for importer, other in SAME_LAYER)


@pytest.mark.parametrize(
    ("part", "source", "caught"),
    [
        ("losses", "import flax.linen as nn", ["imports flax.linen"]),
        ("losses", "from kltrust.learner import run", ["imports kltrust.learner"]),
        ("losses", "from kltrust import learner", ["imports kltrust.learner"]),
        ("losses", "from kltrust import trpo", ["imports kltrust.trpo"]),
        ("divergences", "from kltrust.losses import value_loss", ["imports kltrust.losses"]),
        ("solvers", "def f():\n    import optax", ["imports optax"]),
        ("algorithms", "from kltrust.rollout import rollout", ["imports kltrust.rollout"]),
        ("algorithms", "import gymnax", ["imports gymnax"]),
        ("learner", "import jax\nstep = jax.jit(lambda x: x)", ["uses jit"]),
        ("learner", "import jax\n@jax.jit\ndef f(x): ...", ["uses jit"]),
        ("learner", "from jax import jit", ["uses jit"]),
        ("learner", "import jax\njax.debug.print('x')", ["uses debug"]),
        ("learner", "import time", ["imports time"]),
        ("learner", "print(open('x'))", ["uses open", "uses print"]),
        ("learner", "import kltrust", ["imports kltrust"]),
        ("experiments", "import kltrust", []),
        ("experiments", "import time, jax\njax.jit(print)", []),
        ("algorithms", "import optax\nfrom kltrust.fisher import fisher_root", []),
    ],
)
def test_the_rule_catches_made_up_offenders(part, source, caught):
    assert violations(part, source) == caught
