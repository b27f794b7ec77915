"""torchvision's import survives a compiled part that does not fit torch.

Where torch comes as a CPU build and torchvision as a CUDA build, torchvision's compiled part cannot
load, and `import torchvision` dies while describing two operators nobody here calls
(pytorch/vision#8985). Declaring those two is enough: models, transforms and data sets are plain
Python. So this runs first, whenever `kdlib` is imported; it costs 20 ms and changes nothing where
the pair fits.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # operators live as long as the library that made them


def ensure_torchvision_importable() -> str:
    """Make `import torchvision` safe without importing it; the word says what was found.

    "native": the compiled part fits torch. "stubbed": it does not, two operators were declared in
    its place and calling them raises torchvision's own error. "absent": not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "absent"
    folder = Path(spec.origin).parent
    compiled = [path for path in folder.glob("_C*") if path.suffix in (".so", ".pyd")]
    try:
        torch.ops.load_library(str(compiled[0]))
        return "native"
    except (OSError, IndexError):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        return "stubbed"


TORCHVISION = ensure_torchvision_importable()


def pair_command(torch_version: str = torch.__version__, installed: bool = True) -> str:
    """The pip command that installs the torchvision made for this torch.

    >>> pair_command("2.13.0+cpu", installed=False)
    'pip install torch==2.13.0 torchvision --index-url https://download.pytorch.org/whl/cpu'
    """
    public, _, build = torch_version.partition("+")
    remove = "pip uninstall -y torchvision && " if installed else ""
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"{remove}pip install torch=={public} torchvision{index}"


def torchvision_line() -> str:
    """One line for set-up, `doctor` and error messages: what was found and how to mend it."""
    if TORCHVISION == "absent":
        return f"torch {torch.__version__}, no torchvision; {pair_command(installed=False)}"
    line = f"torch {torch.__version__}, torchvision {version('torchvision')}: {TORCHVISION}"
    if TORCHVISION == "native":
        return line
    return f"{line} (models work, box operators do not; a matching pair: {pair_command()})"
