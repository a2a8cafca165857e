"""The documentation: it builds without a warning, and leaves nothing public unsaid."""

import base64
import dataclasses
import html
import html.parser
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import distrax
import griffe
import jax
import jax.numpy as jnp
import nbformat.v4 as notebook
import pandas as pd
import pytest
import yaml
from browser import CHROMIUM, Page, measured

import kltrust.experiments.watch
from kltrust.algorithms import algorithm_names, find_algorithm
from kltrust.experiments import cli
from kltrust.experiments.config import spec
from kltrust.experiments.config.experiment import SECTIONS, section_kinds
from kltrust.experiments.jobs import plan
from kltrust.learner import Metrics
from kltrust.types import PolicyBatch, UpdateReport

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import build as build_docs  # noqa: E402
from builder import docstrings, formulas, pages, tables  # noqa: E402

# Docstrings: what every public name has to say.


def lacking(item, said):
    """What the docstring of a class, function or attribute leaves out.

    A function's has to name each argument, itself or in the docstring that it refers to ("see `x`",
    "as in `x`"), and to say what comes back: by a section, by a shape in brackets, by "like ``x``",
    or by a type that says it, which a class with a docstring does.
    """
    text = item.docstring.value if item.docstring else ""
    if not text.strip():
        return ["a docstring"]
    if item.is_class and {"init", "update"} <= set(item.members):
        return []  # `PolicyUpdate` and `Critic` say what the two methods take and return
    if item.is_class:
        # What overrides a method of a base class does what that says.
        known = {name for base in item.resolved_bases for name in base.all_members}
        methods = [m for n, m in item.members.items() if n[0] != "_" and n not in known]
        return [f"{m.name}: {what}" for m in methods if m.is_function for what in lacking(m, said)]
    if not item.is_function:
        return []
    referred = [said.get(name, "") for name in re.findall(r"(?:see|as in) `([\w.]+)`", text)]
    names = "\n".join([text, *referred])
    arguments = [p.name for p in item.parameters if p.name not in ("self", "cls")]
    found = [name for name in arguments if not re.search(rf"\b{name}\b", names)]
    kind, first = str(item.returns), text.split("\n\n")[0]
    clear = kind in ("None", "bool", "int", "float", "str") or kind in said
    shape = re.search(r"\[[^\]]*\]|->|like ``\w+``", first)
    return found if clear or shape or "Returns:" in text else [*found, "what it returns"]


def public(package):
    """Everything that the public modules offer, by path: where it is defined, imported or not."""
    found = {}
    for part in docstrings.public_modules(package):
        for name, member in package.modules[part].members.items():
            if member.is_public and not member.is_module:
                item = member.final_target if member.is_alias else member
                found[f"kltrust.{part}.{name}"] = item
    return found


@pytest.fixture(scope="module")
def package():
    return docstrings.load(ROOT)


@pytest.fixture(scope="module")
def said(package):
    """The docstrings of all public names, short and dotted."""
    names = docstrings.public_names(package)
    return {n: package[p.removeprefix("kltrust.")].docstring.value for n, p in names.items()}


def test_every_public_name_has_a_docstring_that_says_it_all(package, said):
    items = public(package)
    assert len(items) > 150
    assert {path: gaps for path, item in items.items() if (gaps := lacking(item, said))} == {}


def test_the_public_names_are_those_of_the_package(package):
    import kltrust

    ours = {path.removeprefix("kltrust.") for path in public(package)}
    # An algorithm is offered by the package, whatever its file is called.
    parts = {n: re.sub(r"\._\w+$", "", home) for n, home in kltrust._HOMES.items()}
    homes = {f"{home.removeprefix('kltrust.')}.{n}" for n, home in parts.items()}
    promised = {path for path in homes if not path.startswith("kltrust")}
    for part in ("tabular", "audit"):
        promised |= {f"{part}.{name}" for name in getattr(kltrust, part).__all__}
    assert promised <= ours


@pytest.mark.parametrize(
    ("code", "gaps"),
    [
        ("def f(x: Array) -> Array: ...", ["a docstring"]),
        ('def f(x: Array) -> Array:\n "Twice x: [*E]."', []),
        ('def f(x: Array) -> Array:\n "Twice the maximum: [*E]."', ["x"]),
        ('def f(x: Array) -> Array:\n "Twice x."', ["what it returns"]),
        ('def f(x: Array) -> Array:\n "Twice x, like ``x``."', []),
        ('def f(x: Array) -> None:\n "Prints x."', []),
        ('def f(x: Array) -> Known:\n "All of x."', []),
        ('def f(x: Array) -> Unknown:\n "All of x."', ["what it returns"]),
        ('def f(x: Array, y: Array) -> Array:\n "[*E]; see `Known`."', ["y"]),
        ('class f:\n "A."\n def g(self, x: int) -> None:\n  "B."', ["g: x"]),
        ('class f:\n "A."\n def g(self) -> None: ...', ["g: a docstring"]),
        ('class g:\n "A."\n def h(self, x: int) -> None:\n  "Of x."\nclass f(g):\n "B."', []),
        (
            'class g:\n "A."\n def h(self, x: int) -> None:\n  "Of x."\n'
            'class f(g):\n "B."\n def h(self, x: int) -> None: ...\n def k(self) -> None: ...',
            ["k: a docstring"],
        ),
        ("f = 1", ["a docstring"]),
        ('f = 1\n"One."', []),
    ],
)
def test_the_checker_of_docstrings_finds_what_is_missing(code, gaps):
    with griffe.temporary_visited_module(code) as module:
        assert lacking(module["f"], {"Known": "Has an x."}) == gaps


def test_a_docstring_in_markdown():
    names = {"trpo": "kltrust.algorithms.trpo"}
    text = "[*E] of `trpo`, `other`, ``a*b``; 1 < 2::\n\n    x = a[0] * 2\n\nArgs:\n    *x: [*E]."
    shown = docstrings.to_markdown(text, names)
    assert "&#91;&#42;E] of [`trpo`][kltrust.algorithms.trpo], `other`, ``a*b``; 1 &lt; 2:" in shown
    assert "```python\nx = a[0] * 2\n```" in shown
    assert shown.endswith("Args:\n    *x: &#91;&#42;E].")
    several = "x, y: z.\n\nAttributes:\n    a, b: both\n        of them.\n    c: one."
    each = "x, y: z.\n\nAttributes:\n" + "".join(f"    {n}: both\n        of them.\n" for n in "ab")
    assert docstrings.to_markdown(several, names) == each + "    c: one."


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


def test_a_report_that_is_not_said_is_an_error(monkeypatch):
    monkeypatch.setattr(tables, "find_algorithm", lambda name: dict)
    with pytest.raises(ValueError, match="the docstring of made_up has no list 'Extra:'"):
        tables.extra("made_up")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("settings trpoo", "table: settings trpoo -->: .*did you mean trpo"),
        ("setting trpo", "table: setting trpo -->: 'setting'"),
    ],
)
def test_a_table_that_cannot_be_made_is_an_error(table, message):
    with pytest.raises(ValueError, match=message):
        tables.fill(f"<!-- table: {table} -->")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: none -->", "<!-- table: none -->: 'none'"),
        ("$x^$", "not a formula"),
        ('--8<-- "NOTHING.md"', "No such file"),
    ],
)
def test_the_build_names_the_page_at_fault(text, message, tmp_path, monkeypatch):
    (tmp_path / "docs/howto").mkdir(parents=True)
    (tmp_path / "docs/howto/page.md").write_text(text)
    monkeypatch.setattr(pages, "module_pages", lambda root: {})
    with pytest.raises(ValueError, match=f"^howto/page.md: .*{message}"):
        build_docs.site_files(tmp_path)


def test_the_build_changes_only_what_differs_and_removes_what_is_gone(tmp_path):
    folder = tmp_path / "docs"
    build_docs.write({"index.md": b"1", "a/b.md": b"2"}, folder)
    os.utime(folder / "index.md", (1, 1))
    build_docs.write({"index.md": b"1", "c.md": b"3"}, folder)
    assert (folder / "index.md").stat().st_mtime == 1
    assert {path.name for path in folder.rglob("*")} == {"index.md", "c.md"}


def test_the_build_deletes_no_folder_of_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other files; name another folder by --out"):
        build_docs.main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.txt").read_text() == "mine"


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


def test_formulas_are_mathml(site):
    page = (site / "algorithms/trpo.html").read_text()
    assert page.count("<math") > 20
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert 20_000 < (site / "assets/math.ttf").stat().st_size < 400_000


@pytest.mark.parametrize("tex", [r"\left( x", r"\nosuch x", "x^"])
def test_a_formula_that_is_none_is_an_error(tex):
    with pytest.raises(ValueError, match=re.escape(tex)):
        formulas.to_mathml(f"Here ${tex}$.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a $x$ b", 1),
        ("$x$ and\n$y$, \\$3 and $ 4", 2),
        ("$$\nx\n+ y\n$$", 1),
        ("`$x$`", 0),
        ("``a ` $x$``", 0),
        ("```bash\necho $x$y\n```\n$z$", 1),
        ("- $a\nb$", 1),
        ("a $b\n\nc$ d", 0),
    ],
)
def test_formulas_are_found_and_code_is_not_touched(text, found):
    shown, characters = formulas.to_mathml(text)
    assert shown.count("<math") == found
    assert bool(characters) == bool(found)
    assert shown == text or found


def test_a_formula_says_nothing_in_markdown():
    (inside,) = re.findall("<math.*</math>", formulas.to_mathml("$a_* [b] | c$")[0])
    written = re.sub("<[^>]*>", "", inside)
    assert not set("*_[]|`") & set(written)
    assert html.unescape(written).replace(" ", "") == "a*[b]|c"


def test_a_notebook_becomes_a_page(tmp_path):
    image = base64.b64encode(b"\x89PNG and so on").decode()
    display = notebook.new_output("display_data", data={"image/png": image})
    stream = notebook.new_output("stream", text="seen")
    frame = pd.DataFrame({"kl": [0.5]}).to_html()
    table = notebook.new_output("display_data", data={"text/html": frame})
    made = notebook.new_notebook(
        cells=[
            notebook.new_markdown_cell("# A notebook\n\n$x$"),
            notebook.new_code_cell("1 + 1", outputs=[stream, table, display]),
        ]
    )
    (tmp_path / "n.ipynb").write_text(json.dumps(made))
    found = pages.notebook_pages(tmp_path)
    (picture,) = found.keys() - {"notebooks/n.md"}
    text = found["notebooks/n.md"].decode()
    assert text.startswith("# A notebook\n\n$x$")
    assert "```python\n1 + 1\n```" in text
    assert "seen" in text
    assert "<table>" in text
    assert f"({picture.removeprefix('notebooks/')})" in text
    assert found[picture] == b"\x89PNG and so on"
    assert pages.notebook_pages(tmp_path / "none") == {}


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "index",
        "howto/algorithm",
        "howto/environment",
        "howto/masks",
        "howto/network",
        "howto/porting",
        "howto/recurrent",
        "howto/resume",
    ],
)
def test_the_examples_run(page):
    """All Python of a page, in one go, as printed; what it registers is forgotten."""
    text = (ROOT / f"docs/{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names = {}
    exec(compile("\n".join(blocks), f"{page}.md", "exec"), names)
    if "metrics" in names:
        assert jnp.isfinite(names["metrics"].kl).all()


TOY = """
[learner]
num_envs = 4
num_steps = 16
[critic]
num_epochs = 1
num_minibatches = 1
[network]
hidden = [8]
[budget]
total_steps = 64
num_evals = 1
eval_episodes = 1
"""
SMALL = "--num-envs 4 --num-steps 16 --num-minibatches 1 --critic.num-minibatches 1 --hidden 8"
SMALL += " --total-steps 64 --num-evals 1 --eval-episodes 1"


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path, monkeypatch, capsys):
    """Every block of the page, in its order, in a new folder; budgets are made small."""
    text = (ROOT / "docs/quickstart.md").read_text()
    fenced = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
    blocks = fenced.findall(text)
    assert len(blocks) == text.count("```") / 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kltrust.experiments.watch.Server, "serve_forever", interrupted)
    printed = {}
    for i, (language, title, block) in enumerate(blocks):
        if title:
            small = block.replace("[budget]\ntotal_steps = 100_000\n", TOY)
            assert (small != block) is (language == "toml")
            (tmp_path / title).write_text(small)
        elif language == "python":
            exec(compile(block, "quickstart.md", "exec"), {})
        elif language == "bash":
            for line in block.splitlines():
                kltrust_, *command = shlex.split(line, comments=True)
                assert kltrust_ == "kltrust"
                small = SMALL.split() if command[0] == "train" else []
                assert cli.main([*command, *small]) == 0, line
        else:
            assert block == printed[i - 1]
        printed[i] = capsys.readouterr().out
    sys.modules.pop("my_drift")
    assert "watching runs/tonight" in "".join(printed.values())
    assert len(kltrust.load("runs/tonight").runs) == 40
    assert set(kltrust.load("runs/idea").runs["update.strength"]) == {2.0}


def interrupted(self):
    raise KeyboardInterrupt


# What a project keeps beside its code.


@pytest.mark.parametrize(("page", "settings"), [("sweep", 2 * (3 + 8)), ("search", 64)])
def test_the_example_of_a_sweep_is_one(page, settings, tmp_path):
    text = (ROOT / f"docs/howto/{page}.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "bounds.toml").write_text(example)
    sweep = spec.load(tmp_path / "bounds.toml")
    plan.check_spec(sweep)
    assert len(sweep.settings) == settings
    assert (sweep.search is None) == (page == "sweep")


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
