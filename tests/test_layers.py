"""The order of the rooms, kept by reading the imports of every module: only what stands before it.

All but the experiments leave compilation, printing, files and clocks to their caller.
"""

import ast
import sys
from pathlib import Path

import pytest

import kltrust

ROOT = Path(kltrust.__file__).parent
ORDER = [
    *("types", "tree", "loops", "lazy", "checks", "values", "settings", "lowering"),
    *("divergences", "losses", "advantages", "tokens"),
    *("fisher", "solvers"),
    *("networks", "environments", "rollout"),
    *("updates", "algorithms", "audit"),
    *("critic", "learner", "tabular", "findings"),
    *("experiments", "results"),
    *("masks", "normalization", "recurrent", "sequences"),
]
"""The parts of the package. A part may import itself and the parts before it."""

ROOMS = [
    "search",
    "config",
    "store",
    "engine",
    "jobs",
    "reading",
    "report",
    "watch",
    "cli",
    "run_spec",
]
"""The rooms of experiments, in the same way."""

FORBIDDEN = {
    "losses": {"distrax"},
    "tokens": {"distrax"},
    "updates": {"kltrust.environments", "kltrust.rollout", "kltrust.audit"},
    "algorithms": {"kltrust.environments", "kltrust.rollout", "kltrust.audit"},
    "findings": {"jax", "kltrust.algorithms", "kltrust.settings"},
}
"""What must not be loaded when a part is imported, through however many modules."""

ADAPTED = {"brax", "craftax", "jumanji", "mujoco_playground", "navix", "pgx"}
"""Libraries of environments, each imported by its own adapter alone."""

DRAWING = {"matplotlib", "mujoco"}
"""What draws an environment's states, imported when a picture is asked for."""

CORE = {"jax", "numpy", "chex"}
LIBRARIES = {
    "lazy": {"distrax"},
    "divergences": {*CORE, "distrax"},
    "fisher": {*CORE, "distrax"},
    "networks": {*CORE, "distrax", "flax"},
    "environments": {*CORE, "gymnax", *ADAPTED, *DRAWING},
    "rollout": {*CORE, "distrax"},
    "updates": {*CORE, "optax"},
    "algorithms": {*CORE, "optax"},
    "audit": {*CORE, "distrax"},
    "critic": {*CORE, "optax"},
    "learner": {*CORE, "optax"},
    "tabular": {*CORE, "distrax"},
    "findings": {"numpy"},
}
"""What a part may import of other libraries; CORE where it is not named. Experiments are free."""

OF_THE_CALLER = {"jit", "pmap", "debug", "io_callback", "pure_callback"}
CLOCKS_AND_FILES = {"time", "datetime", "io", "os", "pathlib", "shutil", "tempfile", "subprocess"}


def imports(tree: ast.AST) -> set[str]:
    """The dotted names of all modules imported, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # What is imported may be a module or a name in one: `home` tells.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def effects(tree: ast.AST) -> set[str]:
    """Compilation, printing and file access, by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in OF_THE_CALLER:
            found.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jax"):
            found |= {a.name for a in node.names} & OF_THE_CALLER
        if isinstance(node, ast.Name) and node.id in ("print", "open", "input", "breakpoint"):
            found.add(node.id)
    return found


def place(module: str) -> tuple[int, ...]:
    """Where a module of the package stands in the order; its own part stands for itself."""
    part, room, *_ = [*module.split(".")[1:], "", ""]
    if part not in ORDER:
        return (len(ORDER),)
    if part == "experiments" and room in ROOMS:
        return ORDER.index(part), ROOMS.index(room)
    return (ORDER.index(part),)


def violations(module: str, source: str) -> list[str]:
    """What a module, by its dotted name, does that it must not."""
    tree, part = ast.parse(source), module.split(".")[1]
    free = ORDER.index(part) >= ORDER.index("experiments")
    found = []
    for name in sorted(imports(tree)):
        top = name.split(".")[0]
        if top == "kltrust":
            # The command line may use the library as its users do.
            if place(name) > place(module) and not (free and place(name) == (len(ORDER),)):
                found.append(f"imports {name}")
        elif free:
            continue
        elif top in sys.stdlib_module_names:
            if top in CLOCKS_AND_FILES:
                found.append(f"imports {name}")
        elif top not in LIBRARIES.get(part, CORE):
            found.append(f"imports {name}")
    if not free:
        # Branches for platforms share what is traced: there `jit` compiles nothing.
        shared = {"jit"} if part == "loops" else set()
        found += [f"uses {name}" for name in sorted(effects(tree) - shared)]
    return found


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted(ROOT.rglob("*.py"))}
PARTS = [module for module in MODULES if module != "kltrust"]


@pytest.mark.parametrize("module", PARTS)
def test_a_module_imports_only_what_stands_before_it(module):
    assert module.split(".")[1] in ORDER, "give this part its place in the order"
    assert violations(module, MODULES[module].read_text()) == []


def names_of_settings(tree: ast.AST, names: set[str]) -> set[str]:
    """String literals that are the name of an algorithm's setting; roles are no names."""
    roles = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("with_role")
        for argument in node.args
    }
    strings = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in roles)
    return {node.value for node in strings if isinstance(node.value, str)} & names


def test_no_module_knows_an_algorithm_by_the_name_of_a_setting():
    """What others know of a setting stands at its field, so that one's own algorithm has it too."""
    from kltrust import algorithms

    found = map(algorithms.find_algorithm, algorithms.algorithm_names())
    common = {"alpha", "size", "step"}  # words of other libraries, too
    names = {name for cls in found for name in cls.__dataclass_fields__} - common
    assert {"max_kl", "learning_rate", "damping"} <= names
    for module, source in SOURCES.items():
        if module.split(".")[1:2] not in (["algorithms"], ["updates"]):
            assert not names_of_settings(ast.parse(source), names), module
    offender = "with_role(x, 'damping')\nvars(x)['max_kl'] = getattr(x, 'learning_rate')"
    assert names_of_settings(ast.parse(offender), names) == {"max_kl", "learning_rate"}


def loaded_by(module: str, sources: dict[str, str]) -> set[str]:
    """All that importing a module imports, through however many modules, by its source alone."""

    def at_import(tree: ast.AST) -> ast.Module:
        # Neither what functions import when they are called, nor what type checkers alone import.
        kept = []
        for node in tree.body:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                kept.append(node)
        return ast.Module(kept, [])

    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        # A package is loaded before what is in it; the last part may be a name in a module.
        for home in (".".join(parts[: i + 1]) for i in range(len(parts))):
            if home in sources and home not in found:
                found.add(home)
                waiting += imports(at_import(ast.parse(sources[home])))
        if parts[0] != "kltrust":
            found.add(parts[0])
    return found


SOURCES = {module: path.read_text() for module, path in MODULES.items()}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_what_importing_a_part_must_not_load(part):
    assert FORBIDDEN[part].isdisjoint(loaded_by(f"kltrust.{part}", SOURCES))


def test_imports_are_followed_through_other_modules():
    made_up = {
        "kltrust": "",
        "kltrust.losses": "from kltrust import tree",
        "kltrust.tree": "import optax\nfrom kltrust.fisher import product",
        "kltrust.fisher": "if TYPE_CHECKING:\n    import flax\ndef f():\n    import gymnax",
    }
    loaded = loaded_by("kltrust.losses", made_up)
    assert loaded == {"kltrust", "kltrust.losses", "kltrust.tree", "kltrust.fisher", "optax"}


def test_the_package_itself_imports_only_the_standard_library():
    names = imports(ast.parse(SOURCES["kltrust"]))
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("losses", "import flax.linen as nn", ["imports flax.linen"]),
        ("losses", "from kltrust.learner import run", ["imports kltrust.learner.run"]),
        ("losses", "from kltrust import learner", ["imports kltrust.learner"]),
        ("losses", "from kltrust import trpo", ["imports kltrust.trpo"]),
        ("divergences", "from kltrust.losses import f", ["imports kltrust.losses.f"]),
        ("solvers", "def f():\n    import optax", ["imports optax"]),
        ("algorithms", "from kltrust.audit import f", ["imports kltrust.audit.f"]),
        ("algorithms", "import gymnax", ["imports gymnax"]),
        ("learner", "import jax\nstep = jax.jit(lambda x: x)", ["uses jit"]),
        ("learner", "import jax\n@jax.jit\ndef f(x): ...", ["uses jit"]),
        ("learner", "from jax import jit", ["uses jit"]),
        ("learner", "import jax\njax.debug.print('x')", ["uses debug"]),
        ("learner", "import jax\njax.pure_callback(f, x, x)", ["uses pure_callback"]),
        ("learner", "import time", ["imports time"]),
        ("learner", "print(open('x'))", ["uses open", "uses print"]),
        ("learner", "import kltrust", ["imports kltrust"]),
        ("experiments.cli.train", "import kltrust", []),
        ("experiments.jobs.plan", "import time, jax\njax.jit(print)", []),
        (
            "experiments.store.run",
            "from kltrust.experiments.cli import train",
            ["imports kltrust.experiments.cli.train"],
        ),
        ("algorithms", "import optax\nfrom kltrust.fisher import fisher_root", []),
    ],
)
def test_the_rule_catches_made_up_offenders(module, source, caught):
    assert violations(f"kltrust.{module}", source) == caught
