"""The rules of the house that a machine can check."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdlib

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "kdlib").rglob("*.py"))
PYTHON = [
    *SOURCES,
    *(path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")),
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A room imports from the lines above its own, never from its own line or from below.
ORDER = [
    {"definitions", "files"},
    {
        "types",
        "seeding",
        "registry",
        "known_sets",
        "lock",
        "interrupt",
        "device",
        "_compat",
        "names",
        "notices",
        "quantities",
    },
    {"data", "metrics"},
    {"config"},
    {"grid"},
    {"studies"},
    {"augment", "models"},
    {"losses"},
    {"teachers", "objectives"},
    {"train"},
    {"evaluate", "provenance", "given"},
    {"store"},
    {"cautions"},
    {"pipeline", "verify", "compare"},
    {"plots"},
    {"plan"},
    {"report"},
    {"runnb", "tune", "stand_ins"},
    {"costs", "survey"},
    {"estimate"},
    {"prices"},
    {"overview"},
    {"batch"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
# Only kdlib makes torchvision importable on every machine; torchmetrics and timm import it.
AFTER_KDLIB = {"torchvision", "timm", "torchmetrics"}


def name(path):
    return str(path.relative_to(ROOT))


def trees(paths):
    return [
        pytest.param(ast.parse(path.read_text(encoding="utf-8")), id=name(path)) for path in paths
    ]


def imports(nodes):
    """Every module that is imported, as a dotted name; `from kdlib import x` is kdlib.x."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                yield f"kdlib.{alias.name}" if node.module == "kdlib" else node.module


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_rooms_import_in_one_direction(path):
    room = path.relative_to(ROOT / "kdlib").parts[0].removesuffix(".py")
    assert room == "__init__" or room in RANK, f"{room} has no place in ORDER"
    for module in imports(ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        package, *rest = module.split(".")
        if package == "kdlib" and rest != [] and rest[0] != room and room != "__init__":
            assert rest[0] in RANK, f"{room} imports {module}, which is no room"
            assert RANK[rest[0]] < RANK[room], f"{room} imports {module}"


@pytest.mark.parametrize("tree", trees(SOURCES))
def test_what_needs_torchvision_is_imported_late(tree):
    assert not AFTER_KDLIB & {module.split(".")[0] for module in imports(tree.body)}


def test_snakemake_starts_a_job_without_torch():
    """What a job costs before its kernel starts: kdlib alone would be seconds."""
    tree = ast.parse((ROOT / "kdlib" / "runnb.py").read_text(encoding="utf-8"))
    assert not {"kdlib", "torch"} & {module.split(".")[0] for module in imports(tree.body)}
    snakefile = (ROOT / "workflow" / "Snakefile").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (kdlib|torch)", snakefile, flags=re.MULTILINE)


@pytest.mark.parametrize("tree", trees(PYTHON))
def test_functions_are_short(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


# Whatever is called load or reads a pickle must be one of these, with that argument.
LOADS = {
    "json.loads": None, "yaml.safe_load": None, "load": None, "data.load": None,  # kdlib.data's
    "safetensors.torch.load": None, "safetensors.torch.load_file": None,
    "torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False"),
}  # fmt: skip


def unsafe(tree):
    """Every way to read a file that could run code in it."""
    modules = {module.split(".")[0] for module in imports(ast.walk(tree))}
    yield from modules & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("torch", "numpy"):
            yield from ({one.name for one in node.names} & {"load", "jit", "hub", "package"})
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            name = call.split(".")[-1]
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            reads = re.fullmatch(r"((un)?safe_|full_)?loads?(_all|_file)?|read_pickle", name)
            if reads and call not in LOADS:
                yield call
            elif LOADS.get(call) and LOADS[call] not in given.items():
                yield f"{call} without {LOADS[call]}"


@pytest.mark.parametrize(
    "tree",
    trees([*SOURCES, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]),
)
def test_no_file_can_run_code(tree):
    assert list(unsafe(tree)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "yaml.load(text, Loader)",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "np.load(path)",
        "pd.read_pickle(path)", "from torch import load", "torch.jit.load(path)",
        "yaml.full_load(x)",
    ],
)  # fmt: skip
def test_what_could_run_code_is_found(line):
    assert list(unsafe(ast.parse(line)))


def test_every_params_file_has_its_notebook():
    stems = {path.stem for path in (ROOT / "params").glob("*/*.yaml") if path.stem[0].isdigit()}
    assert stems <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    tagged = {id(cell): set(cell["metadata"].get("tags", [])) for cell in cells}
    (parameters,) = (cell for cell in cells if "parameters" in tagged[id(cell)])
    assert len("".join(parameters["source"]).splitlines()) <= 12
    for cell in cells:
        assert "keep_output" in tagged[id(cell)] or not cell["outputs"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 5, f"{node.name} belongs into kdlib"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            absolute = re.match(r"/(?!content/)\w|~|[A-Za-z]:\\", node.value)
            assert not absolute, f"absolute path {node.value!r}"
    packages = [module.split(".")[0] for module in imports(ast.walk(tree))]
    assert not AFTER_KDLIB & set(packages[: packages.index("kdlib")])


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned_inside_its_range():
    pinned = {canonicalize_name(package): version for package, version in pins().items()}
    extras = PROJECT["optional-dependencies"]
    for line in (*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line
    for package, version in pinned.items():
        assert "+" not in version, f"{package}=={version} is one build, not a version"
        assert not package.startswith(("nvidia", "triton")), f"{package} is pip's choice"


def test_what_kdlib_imports_is_declared():
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    owners = packages_distributions()
    for path in SOURCES:
        for module in imports(ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
            package = module.split(".")[0]
            if package != "kdlib" and package not in sys.stdlib_module_names:
                assert declared & {canonicalize_name(one) for one in owners[package]}, module


def test_environments_agree():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, lines = environment["dependencies"]
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(python[7:])
    assert (pip, lines) == ("pip", {"pip": ["-c constraints.txt", "-e .[test]"]})
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {repo["repo"].rsplit("/")[-1]: repo["rev"].removeprefix("v") for repo in hooks}
    assert revisions["ruff-pre-commit"] == pins()["ruff"]
    assert revisions["nbstripout"] == pins()["nbstripout"]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert kdlib.__version__ == PROJECT["version"] == citation["version"]


def files():
    """The text files of the repository, those not committed yet included."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in (ROOT / line for line in listed.splitlines()):
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            yield path, content.decode("utf-8", errors="replace")


def test_files_name_no_machine_and_one_repository():
    slug = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    machine = re.compile(r"(?<![\w.~*])/(?:home|Users|root|work|mnt)/\w[^\s\"']*")
    own = re.compile(r"(?:research\.google\.com/github|git\+https://github\.com)/([\w.-]+/[\w-]+)")
    for path, text in files():
        assert machine.findall(text) == [], name(path)
        assert set(own.findall(text)) <= {slug}, name(path)
        if path.name not in ("run", "test_structure.py"):
            assert "../" + "shared" not in text, name(path)
