"""What works without the extras, and that whatever lacks one names the line that installs it.

The extras are hidden in a process of its own.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kltrust import lazy

ROOT = Path(__file__).parent.parent
MODULES = {"orbax-checkpoint": "orbax", "playground": "mujoco_playground"}
"""Of the packages whose modules have other names."""

EXTRAS = {
    name: [line.partition(">")[0] for line in lines]
    for name, lines in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ].items()
}
HIDDEN = ("jinja2", "pyarrow", "tyro", "tensorboardX", "wandb", "pygame", "brax", "navix")
"""Not those of the extra `sweeps` that flax and gymnax import."""

HIDE = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN}))\n"


def without_extras(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", HIDE + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_modules_of_sweeps_are_those_of_its_packages():
    modules = (MODULES.get(name, name) for name in EXTRAS["sweeps"])
    assert sorted(modules) == list(lazy.SWEEPS)


def test_losses_and_trainings_need_no_extra():
    code = """
import jax, kltrust
kltrust.results, kltrust.sweep, kltrust.load, kltrust.numpy_policy
kltrust.penalty_surrogate_loss(*jax.numpy.zeros((3, 2)), 0.5)
env = kltrust.make("CartPole-v1")
agent = kltrust.actor_critic(env, hidden=(4,))
learner = kltrust.make_learner(
    env, agent, kltrust.trpo(cg_iters=1), num_envs=2, num_steps=4,
    critic=kltrust.value_regression(num_epochs=1, num_minibatches=1),
)
state, metrics = jax.jit(lambda key: kltrust.train(learner, key, 1))(jax.random.key(0))
print(metrics.kl.shape)
"""
    assert without_extras(code).strip() == "(1,)"


NEEDY = {
    "kltrust.sweep": "kltrust.sweep({'sweep': {'envs': ['CartPole-v1'], 'seeds': 1}, "
    "'experiments': [{'algorithms': 'trpo'}]}, OUT)",
    "kltrust.load": "kltrust.load(OUT)",
    "kltrust.numpy_policy": "kltrust.numpy_policy(OUT)",
    "a report": "from kltrust.experiments import report",
}


def test_doors_of_sweeps_name_the_extra_before_anything_is_written(tmp_path):
    out = tmp_path / "run"
    code = f"import kltrust\nOUT = {str(out)!r}\n"
    for call in NEEDY.values():
        code += f"try:\n    {call}\nexcept RuntimeError as error:\n    print(error)\n"
    said = without_extras(code).splitlines()
    assert len(said) == len(NEEDY)
    for line in said:
        assert ": jinja2, pyarrow, tyro; " in line
        assert line.endswith("pip install 'kltrust[sweeps]'")
    assert not out.exists()


@pytest.mark.parametrize("command", ["train", "sweep", "report", "doctor", "envs"])
def test_commands_name_the_extra(command):
    code = f"from kltrust.experiments import cli\nsys.exit(cli.main([{command!r}, '--help']))"
    done = subprocess.run([sys.executable, "-c", HIDE + code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("kltrust: error: the command line needs packages")
    assert done.stderr.strip().endswith("pip install 'kltrust[sweeps]'")


def test_the_command_alone_says_what_there_is():
    code = "from kltrust.experiments import cli\nsys.exit(cli.main(['--help']))"
    assert "kltrust doctor" in without_extras(code)
