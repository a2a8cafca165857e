"""The documentation: it builds without a warning, and says what is logged and what can be set."""

import dataclasses
import html
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import distrax
import jax
import jax.numpy as jnp
import pytest
import yaml
from browser import CHROMIUM, Page, measured

from kltrust.algorithms import algorithm_names, find_algorithm
from kltrust.experiments import cli
from kltrust.experiments.config.experiment import SECTIONS, section_kinds
from kltrust.learner import Metrics
from kltrust.types import PolicyBatch, UpdateReport

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from builder import tables  # noqa: E402

# Metrics, settings, options: what is logged and what can be set is in the documentation.


def reported(name):
    """The keys of an algorithm's extra, from an update that is traced and not run."""

    def policy(params, obs):
        return distrax.Categorical(logits=obs @ params)

    def update():
        params, obs = jnp.zeros((2, 3)), jnp.ones((8, 2))
        batch = PolicyBatch(obs, jnp.zeros(8, int), jnp.ones(8), policy(params, obs))
        sizes = {"num_minibatches": 1} if "num_minibatches" in fields else {}
        algorithm = find_algorithm(name)(**sizes)
        state = algorithm.init(params)
        report = algorithm.update(policy, params, state, batch, jax.random.key(0))[2]
        return report.extra if isinstance(report, UpdateReport) else report

    fields = {f.name for f in dataclasses.fields(find_algorithm(name))}
    return set(jax.eval_shape(update))


@pytest.mark.parametrize("name", algorithm_names())
def test_what_an_algorithm_reports_is_defined(name, site):
    assert set(tables.extra(name)) == reported(name)
    page, metrics = (site / f"algorithms/{name}.html").read_text(), site / "metrics.html"
    for key in reported(name):
        assert f"extra.{key}</code>" in page
        assert f"extra.{key}</code>" in metrics.read_text()
    for field in dataclasses.fields(find_algorithm(name)):
        assert f"<td><code>{field.name}</code></td>" in page


def test_every_metric_is_defined_in_one_line(site):
    page = (site / "metrics.html").read_text()
    defined = dict(re.findall(r"<td><code>([\w.]+)</code></td>\s*<td>([^<]+)", page))
    assert set(Metrics._fields) <= set(defined)
    assert all(len(text) > 10 for text in defined.values())


def test_every_shared_setting_has_a_row(site):
    page = (site / "settings.html").read_text()
    for section in SECTIONS[1:]:
        for field in dataclasses.fields(section_kinds("trpo")[section]):
            assert f"<td><code>{field.name}</code></td>" in page


def words(text):
    return " ".join(text.split())


def test_every_option_of_every_command_appears(site):
    page = words(html.unescape(re.sub("<[^>]*>", "", (site / "cli.html").read_text())))
    asked = [[command] for command in cli.COMMANDS]
    for command in [*asked, ["train", "trpo", "CartPole-v1"], ["train", "--resume", "DIR"], []]:
        shown = tables.help_of(command)
        options = set(re.findall(r"--[a-z][a-z-]+", shown))
        assert "usage" in shown or not command
        assert options == {option for option in options if option in page}
        assert words(shown) in page
    assert len(set(re.findall(r"--[a-z][a-z-]+", page))) > 50


# The site.


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    run(ROOT / "docs/build.py", "--out", source / "docs").check_returncode()
    # Our configuration with the paths that are relative to its own place.
    settings = configuration()
    settings["docs_dir"] = str(source / "docs")
    python = settings["plugins"][1]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT)]
    python["options"]["extensions"] = [str(ROOT / e) for e in python["options"]["extensions"]]
    (source / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    done = build(source / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def configuration():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    del settings["watch"]
    return settings


def build(config, folder):
    return run("-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder)


def run(*command):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


LOADED = ("stylesheet", "icon", "preload")


def broken(folder):
    """Links and resources that lead nowhere, or out of the site where they must not."""
    read = {path.resolve(): Page(path.read_text()) for path in folder.rglob("*.html")}
    places = {path: set(page.values("id")) for path, page in read.items()}
    found = set()
    for path, page in read.items():
        loaded = [a["href"] for a in page.of("link") if a.get("rel") in LOADED] + page.values("src")
        for target in {*page.values("href", "a"), *loaded}:
            address, place = urldefrag(target)
            if urlsplit(address).scheme or address.startswith("//"):
                found |= {(path.name, target)} if target in loaded else set()
                continue
            file = (path.parent / unquote(address)).resolve() if address else path
            # The page for an address that is not found is written for a site's root.
            if path.name != "404.html" and (
                not file.is_file() or (place and place not in places.get(file, {place}))
            ):
                found.add((path.name, target))
    return found


def test_no_link_is_broken_and_no_page_needs_a_network(site):
    assert len(list(site.rglob("*.html"))) > 30
    assert broken(site) == set()


def test_the_checker_of_links_finds_what_is_broken(tmp_path):
    bad = {"b.html", "a.html#there", "https://x.invalid/y.js", "//x.invalid/z.css"}
    (tmp_path / "a.html").write_text(
        '<h1 id="here"></h1><a href="#here"></a><a href="a.html#here"></a>'
        '<a href="https://x.invalid"></a><a href="b.html"></a><a href="a.html#there"></a>'
        '<script src="https://x.invalid/y.js"></script>'
        '<link rel="stylesheet" href="//x.invalid/z.css">'
    )
    assert broken(tmp_path) == {("a.html", target) for target in bad}


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("fine", None),
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](#nowhere)", "no such anchor"),
        ("[x][kltrust.nothing]", "kltrust.nothing"),
        (None, "not included in the"),
    ],
)
def test_a_strict_build_is_strict(text, warning, tmp_path):
    """With our configuration, less what takes long."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Title\n\n{text}\n")
    if text is None:
        (tmp_path / "docs/forgotten.md").write_text("# A page that the navigation lacks\n")
    config = configuration()
    config |= {"docs_dir": "docs", "nav": ["index.md"], "plugins": ["autorefs"]}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert (done.returncode == 0) is (warning is None), done.stderr
    assert warning is None or warning in done.stderr


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_A_USER = re.compile(r"NAME|accelerator\w*\.json|kltrust/modules\.json")
"""Files that a page names for a reader to write, or that are elsewhere."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page):
    pattern = r"\b(?:tests|benchmarks|kltrust|constraints|docs)/[\w/.-]+\.\w+"
    named = set(re.findall(pattern, page.read_text("utf-8")))
    assert not [name for name in named if not OF_A_USER.search(name) and not (ROOT / name).exists()]


def test_formulas_are_mathml(site):
    page = (site / "algorithms/trpo.html").read_text()
    assert page.count("<math") > 20
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert 20_000 < (site / "assets/math.ttf").stat().st_size < 400_000


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_in_a_browser_no_page_scrolls_sideways_or_asks_a_network(site, tmp_path):
    for page in ("index", "design", "algorithms/ppo_penalty", "metrics", "cli", "api/audit"):
        found = measured(site / f"{page}.html", 390, tmp_path)
        assert found["scroll"] == found["client"], page
        assert found["asked"] == [], page
    bad = site / "bad.html"
    wide = '<p style="width:900px">x</p><img src="https://example.invalid/x.png"></body>'
    bad.write_text((site / "index.html").read_text().replace("</body>", wide))
    found = measured(bad, 390, tmp_path)
    bad.unlink()
    assert found["scroll"] > found["client"]
    assert found["asked"] == ["https://example.invalid/x.png"]


# What a project keeps beside its code.


def test_the_citation_has_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_issue_templates_and_hooks_are_what_they_should_be():
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    for path in forms:
        form = yaml.safe_load(path.read_text())
        if path.stem != "config":
            assert {"name", "description", "body"} <= set(form)
            assert any(part.get("validations", {}).get("required") for part in form["body"])
    assert len(forms) == 4
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    parts = (ROOT / ".ci/run").read_text()
    assert all(hook["entry"].removesuffix(" --fix") in parts for hook in repository["hooks"])
