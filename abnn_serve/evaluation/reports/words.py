"""A card in plain words."""

from __future__ import annotations

from abnn_serve.card import Accuracy, EndpointUse, RobustnessCard

THREATS: dict[str, tuple[str, str]] = {
    "whitebox": ("White-box", "an attacker who has the model and its gradients: the figure to rely on"),
    "graybox": ("Gray-box", "an attacker without the gradient of the substitute network"),
    "transfer": ("Transfer", "samples attacked on an undefended network of the same architecture"),
    "substitute-transfer": ("Substitute transfer", "samples attacked on the public substitute alone"),
    "blackbox": ("Black-box", "an attacker who only sends queries"),
    "artifact": ("Artifact", "white-box samples as a client sends them, judged on the exported file"),
}

_ATTACKS = {
    "FGSM": "FGSM: one step along the sign of the gradient.",
    "PGD": "PGD-N: N steps along the gradient.",
    "worst case": "Worst case: several attacks in turn, each on the samples that survived those before it.",
    "Square": "Square-N: random squares, chosen by N queries.",
    "RayS": "RayS-N: a search by N queries that needs classes alone.",
    "ROA": "ROA: a rectangle, moved to the worst place and filled along the gradient.",
    "AutoAttack": "AutoAttack: the standard ensemble of Croce and Hein (2020).",
}
_BUDGETS = {
    "Linf": "the attack may change every value of every pixel by up to that much of the range from black to white",
    "L2": "the root of the sum of all squared changes, with pixel values from 0 to 1, may be that large",
    "patch": "the attack may replace all pixels inside one rectangle of that size",
}


def percent(share: float) -> str:
    """A share as 24.5%."""
    return f"{100 * share:.1f}%"


def between(interval: tuple[float, float]) -> str:
    """An interval as `20.1% to 30.2%`."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def verdict(card: RobustnessCard) -> str:
    """The card in one or two sentences."""
    clean = f"{percent(card.clean.value)} of clean samples are classified correctly" if card.clean else ""
    threat = next((name for name in THREATS if name in card.worst), None)
    if threat is None:
        return f"{clean or 'Nothing has been measured'}; robustness against attacks has not been measured."
    left = f"{percent(card.worst[threat].value)} under {THREATS[threat][0].lower()} attack ({budgets(card)})"
    failed = [check.name for check in card.sanity if not check.passed]
    doubt = f" The figures may mislead: {len(failed)} of {len(card.sanity)} sanity checks failed." if failed else ""
    return f"{clean}, {left}.{doubt}" if clean else f"{left} are classified correctly.{doubt}"


def budgets(card: RobustnessCard) -> str:
    """The budgets of the Linf and L2 attacks, such as `Linf 8/255`."""
    named = dict.fromkeys(budget(row.norm, row.eps) for row in card.attacks if row.norm != "patch")
    return ", ".join(named)


def budget(norm: str, eps: float) -> str:
    """A budget such as `Linf 8/255`, `L2 0.5` or `10% of the area`."""
    if norm == "patch":
        return f"{eps:.0%} of the area"
    levels = 255 * eps
    return f"Linf {levels:.0f}/255" if norm == "Linf" and abs(levels - round(levels)) < 1e-3 else f"{norm} {eps:.3g}"


def budgets_in_words(card: RobustnessCard) -> list[str]:
    """A sentence for each kind of budget on the card."""
    used = {row.norm: budget(row.norm, row.eps) for row in card.attacks}
    return [f"{used[norm]}: {words}." for norm, words in _BUDGETS.items() if norm in used]


def attacks_in_words(card: RobustnessCard) -> list[str]:
    """A sentence for each kind of attack on the card."""
    return [words for name, words in _ATTACKS.items() if any(row.attack.startswith(name) for row in card.attacks)]


def figures(card: RobustnessCard) -> dict[str, Accuracy]:
    """The headline figures by name: clean, then the worst case of each threat model."""
    clean = {"clean": card.clean} if card.clean else {}
    return clean | {name: card.worst[name] for name in THREATS if name in card.worst}


def calibration_in_words(card: RobustnessCard) -> str:
    """What the bundle's temperature does to its probabilities, and when it abstains; "" without a temperature."""
    if (result := card.calibration) is None:
        return ""
    text = (
        f"The expected calibration error of the probabilities is {percent(result.ece_after)} with the bundle's "
        f"temperature and {percent(result.ece_before)} without, in {result.bins} bins on {result.measured:,} samples "
        f"of {result.data}."
    )
    if result.abstained is None:
        return text
    rest = f" {percent(result.answered.value)} of the others are classified correctly." if result.answered else ""
    return f"{text} The bundle abstains from {result.abstained:,} of them.{rest}"


def asked(use: EndpointUse) -> list[tuple[str, str]]:
    """What an endpoint is, was asked and answered, as names and values."""
    answers = ", ".join(f"{count:,} x {answer}" for answer, count in use.answers.items())
    repeated = f", each the mean of {use.repeats}" if use.repeats > 1 else ""
    return [
        ("endpoint", use.address),
        ("protocol", f"{use.protocol}, answers {use.scores}{repeated}"),
        ("queries", f"{use.queries:,} images in {use.requests:,} requests ({answers})"),
        ("waiting asked for", f"{use.waited:,.0f} s"),
    ]


def describe(name: str) -> str:
    """A figure's name in words."""
    return "Clean samples" if name == "clean" else f"{THREATS[name][0]}: {THREATS[name][1]}"
