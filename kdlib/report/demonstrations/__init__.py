"""What went wrong in published code, each as something to run in seconds: numbers and a sentence.

`DEMONSTRATIONS` holds them by name; `params/claims.yaml` names those that a claim rests on. Nothing
is trained on images, and no code of others is copied: each shows the mechanism on its own.
"""

from kdlib.report.demonstrations import kd_calibration, others  # noqa: F401 (they file themselves)
from kdlib.report.demonstrations.base import DEMONSTRATIONS, Demonstration, Shown

__all__ = ["DEMONSTRATIONS", "Demonstration", "Shown"]
