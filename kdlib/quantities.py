"""How each measured number is called and written: in sentences, tables and on axes, here and
nowhere else. A metric that is new among a row's metrics needs a line of `QUANTITIES` to be read."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A number of a row, in readers' words.

    word: in sentences and on axes; heading: in tables. unit: of a difference; of "points" the
    number itself is a fraction and is written in percent. digits: after the point. better: 1 where
    larger is better, -1 where smaller is, 0 where neither is.
    """

    word: str
    heading: str
    digits: int
    unit: str = ""
    better: int = 0

    @property
    def scale(self) -> int:
        """What a stored number is multiplied by when it is written."""
        return 100 if self.unit == "points" else 1

    @property
    def axis(self) -> str:
        """The label of an axis of its own values.

        >>> QUANTITIES["acc"].axis, QUANTITIES["nll"].axis, QUANTITIES["ece"].axis
        ('accuracy, %', 'NLL, nats', 'ECE')
        """
        return ", ".join(filter(None, [self.word, self._own_unit]))

    @property
    def change_axis(self) -> str:
        """The label of an axis of differences.

        >>> QUANTITIES["acc"].change_axis
        'accuracy, points'
        """
        return ", ".join(filter(None, [self.word, self.unit]))

    def level(self, value: float) -> str:
        """Its own value with its unit; nothing for NaN.

        >>> QUANTITIES["acc"].level(0.4912), QUANTITIES["nll"].level(0.25)
        ('49.12 %', '0.250 nats')
        """
        text = f"{self.scale * value:.{self.digits}f} {self._own_unit}".rstrip()
        return "" if math.isnan(value) else text

    def amount(self, value: float, half: float = math.nan) -> str:
        """A difference with its sign, its half-width where there is one, and its unit; nothing for
        NaN.

        >>> QUANTITIES["acc"].amount(0.0157, 0.002), QUANTITIES["ece"].amount(-0.0034)
        ('+1.57 ± 0.20 points', '-0.0034')
        """
        if math.isnan(value):
            return ""
        spread = "" if math.isnan(half) else f" ± {self.scale * half:.{self.digits}f}"
        return f"{self.scale * value:+.{self.digits}f}{spread} {self.unit}".rstrip()

    def size(self, value: float) -> str:
        """A difference without its sign.

        >>> QUANTITIES["acc"].size(-0.005)
        '0.50 points'
        """
        return self.amount(abs(value)).removeprefix("+")

    def span(self, low: float, high: float) -> str:
        """Two differences, as the ends of several.

        >>> QUANTITIES["acc"].span(-0.012, 0.004)
        '-1.20 to +0.40 points'
        """
        ends = (f"{self.scale * end:+.{self.digits}f}" for end in (low, high))
        return f"{' to '.join(ends)} {self.unit}".rstrip()

    @property
    def _own_unit(self) -> str:
        return "%" if self.unit == "points" else self.unit


def _share(word: str, heading: str, better: int) -> Quantity:
    return Quantity(word, heading, 2, "points", better)


def _kl(word: str, heading: str) -> Quantity:
    return Quantity(word, heading, 3, "nats")


QUANTITIES = {
    "acc": _share("accuracy", "ACC", 1),
    "acc_many": _share("accuracy of frequent classes", "ACC, frequent classes", 1),
    "acc_medium": _share("accuracy of medium classes", "ACC, medium classes", 1),
    "acc_few": _share("accuracy of rare classes", "ACC, rare classes", 1),
    "top1_error": _share("top-1 error", "top-1 error", -1),
    "top5_error": _share("top-5 error", "top-5 error", -1),
    "nll": Quantity("NLL", "NLL", 3, "nats", -1),
    "ece": Quantity("ECE", "ECE", 4, better=-1),
    "ece_10": Quantity("ECE, 10 bins", "ECE, 10 bins", 4, better=-1),
    "ece_many": Quantity("ECE of frequent classes", "ECE, frequent classes", 4, better=-1),
    "ece_medium": Quantity("ECE of medium classes", "ECE, medium classes", 4, better=-1),
    "ece_few": Quantity("ECE of rare classes", "ECE, rare classes", 4, better=-1),
    "adaptive_ece": Quantity("adaptive ECE", "adaptive ECE", 4, better=-1),
    "classwise_ece": Quantity("class-wise ECE", "class-wise ECE", 4, better=-1),
    "smooth_ece": Quantity("smooth ECE", "smooth ECE", 4, better=-1),
    "brier": Quantity("Brier score", "Brier", 4, better=-1),
    "aurc": Quantity("AURC x1000", "AURC x1000", 1, better=-1),
    "e_aurc": Quantity("E-AURC x1000", "E-AURC x1000", 1, better=-1),
    "harmonic": Quantity("Harmonic score", "Harmonic", 3, better=1),
    "nll_after": Quantity("NLL after one temperature", "NLL after T", 3, "nats", -1),
    "ece_after": Quantity("ECE after one temperature", "ECE after T", 4, better=-1),
    # Fidelity: closer is no better in itself.
    "centroid_probs": _kl(
        "KL to the teachers' mean probabilities", "KL to centroid of probabilities"
    ),
    "centroid_logits": _kl("KL to the teachers' mean logits", "KL to centroid of logits"),
    "mean_individual": _kl("mean KL to a teacher", "mean individual KL"),
    "individual": _kl("KL to the teacher", "individual KL"),
    "diversity": _kl("diversity of teachers", "diversity"),
    "jensen_shannon": _kl("Jensen-Shannon divergence", "Jensen-Shannon"),
    "kl": _kl("KL", "KL"),
    "kl_back": _kl("KL back", "KL back"),
    "multi_kd_first": Quantity("first weight on logits", "weight on logits, first", 3),
    "multi_kd_last": Quantity("last weight on logits", "weight on logits, last", 3),
    "hints_first": Quantity("first weight of hints", "weight of hints, first", 3),
    "hints_last": Quantity("last weight of hints", "weight of hints, last", 3),
    "agreement": _share("top-1 agreement", "top-1 agreement", 0),
}


def quantity(metric: str) -> Quantity:
    """The last part of a metric's name ("temperature.ece") as it is written; one that nobody
    described is called by its name.

    >>> quantity("temperature.ece").word, quantity("mine").word
    ('ECE', 'mine')
    """
    name = metric.rpartition(".")[2]
    return QUANTITIES.get(name, Quantity(name, name.replace("_", " "), 3))
