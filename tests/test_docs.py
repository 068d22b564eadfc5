"""Commands, code and links on the pages work."""

import ast
import importlib
import importlib.util
import inspect
import logging
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import tkd_hf
from tkd_hf.cli import app
from tkd_hf.cli.recipe import Recipe, stage_values
from tkd_hf.cli.registry import COMMANDS as STAGES


ROOT = Path(__file__).parent.parent
PATTERNS = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", "model_cards/**/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
GUIDES = [page for page in PAGES if page.parent.name == "docs" or page.name == "README.md"]
COMMANDS = app.commands

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"^(?:\$ )?(?:.*\$\(which )?tkd-hf\)? +([a-z]+)((?: +(?!#)\S+)*)", re.MULTILINE)
FLAG = re.compile(r"(?<!\S)--([a-z][a-z0-9-]*)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in these languages."""
    text = page.read_text(encoding="utf-8")
    return [textwrap.dedent(content) for _, language, content in FENCED.findall(text) if language in languages]


@pytest.fixture(scope="module")
def hook():
    """Return the module docs/reference.py, which MkDocs loads as a hook."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_existing_files(page):
    """Pages below docs/reference/ exist in the built site only: one per command and one per public name."""
    names = {"commands": set(COMMANDS), "python": set(tkd_hf.__all__), "reference": {"index"}}

    def exists(link: str) -> bool:
        path = (page.parent / link).resolve()
        if path.is_relative_to(ROOT / "docs/reference"):
            return path.stem in names.get(path.parent.name, ())
        return path.exists()

    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in links if not exists(link)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_have_their_flags(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    code = "\n".join([*(content for _, _, content in FENCED.findall(text)), *INLINE.findall(FENCED.sub("", text))])
    for name, words in COMMAND.findall(code):
        assert name in COMMANDS, f"tkd-hf {name}"
        flags = [(option.flag, f"--{option.name.replace('_', '-')}") for option in COMMANDS[name].options()]
        options = {flag.removeprefix("--") for both in flags for flag in both} | {"help"}
        assert set(FLAG.findall(words)) <= options, f"tkd-hf {name}{words}"


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_python_blocks_compile_and_use_existing_names(page):
    """Names must be public if they are imported from tkd_hf itself, and take the keywords that they are given."""
    for source in blocks(page, "python", "py"):
        tree = ast.parse(source)
        imported = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "tkd_hf":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert node.module != "tkd_hf" or alias.name in tkd_hf.__all__, alias.name
                    imported[alias.asname or alias.name] = getattr(module, alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and callable(imported.get(node.func.id)):
                parameters = inspect.signature(imported[node.func.id]).parameters
                if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                    assert {keyword.arg for keyword in node.keywords if keyword.arg} <= set(parameters), node.func.id


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_recipes_name_existing_stages_and_options(page, tmp_path):
    for content in blocks(page, "yaml"):
        if "stages:" not in content:
            continue
        (tmp_path / "recipe.yaml").write_text(content, encoding="utf-8")
        recipe = Recipe.read(tmp_path / "recipe.yaml")
        for name, options in recipe.stages:
            stage_values(STAGES[name], recipe, {}, options)


def test_every_command_and_public_name_has_a_page(hook):
    config = SimpleNamespace(nav=[], site_dir="site", use_directory_urls=True, plugins=SimpleNamespace())
    config.plugins._current_plugin = "reference"
    pages = {file.src_uri: file.content_string for file in hook.on_files([], config)}
    assert {f"reference/commands/{name}.md" for name in COMMANDS} < set(pages)
    assert {f"reference/python/{name}.md" for name in tkd_hf.__all__} < set(pages)
    for name, command in COMMANDS.items():
        page = pages[f"reference/commands/{name}.md"]
        assert all(f"| `{option.flag}" in page for option in command.options() if not option.positional)
    assert "| `--temperature NUMBER`" in pages["reference/commands/distill.md"]


def test_repository_links_become_absolute_and_dead_ones_are_warned_about(hook, caplog):
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"), repo_url="https://example.org/repository")
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(ROOT / "docs/index.md"), src_uri="index.md"))
    text = "[a](../Makefile) [b](../examples) [c](recipes.md#share) [d](https://example.org/x) [e](#below)"
    assert hook.on_page_markdown(text, page, config, []) == (
        "[a](https://example.org/repository/blob/main/Makefile) [b](https://example.org/repository/tree/main/examples) "
        "[c](recipes.md#share) [d](https://example.org/x) [e](#below)"
    )
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        hook.on_page_markdown("[dead](../examples/nowhere.py)", page, config, [])
    assert "nowhere.py" in caplog.text


@pytest.mark.parametrize("link", ["nowhere.md", "index.md#nowhere", "/nowhere/", "../nowhere.md"])
def test_dead_links_fail_the_build(tmp_path, link):
    """The settings of mkdocs.yml, without its hook and plugins, on a site of one page."""
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    (tmp_path / "docs").mkdir()

    def build_page(content: str):
        (tmp_path / "docs/index.md").write_text(content, encoding="utf-8")
        folders = {"docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site")}
        build(load_config(str(ROOT / "mkdocs.yml"), hooks=[], plugins=[], nav=["index.md"], **folders))

    build_page("# A page\n\n[alive](index.md#a-page)")
    with pytest.raises(Abort):
        build_page(f"# A page\n\n[dead]({link})")


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing_from_elsewhere(tmp_path):
    """Every page is built with warnings as errors, which takes about 20 seconds."""
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//[^>]+>", html), page
        assert not re.findall(r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect)[\"']?[^>]+href=[\"']?https?:[^>]+>", html)
