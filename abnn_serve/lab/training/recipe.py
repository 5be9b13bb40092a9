"""The settings of one training run, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from abnn_serve.errors import ConfigError

Trained = Literal["all", "norm", "head", "norm+head"]
Optimizer = Literal["sgd", "muon"]
Start = Literal["uniform", "sign"]
AttackLoss = Literal["ce", "kl"]
Images = Literal["adversarial", "clean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        adaptive: train an ABNN: the target gets adaptive layers, driven by a frozen substitute.
        epochs: passes over the data, at least 1.
        batch_size: images in each step, at least 2.
        optimizer: `sgd`, with Nesterov momentum; or `muon`, orthogonalised steps for convolutions and SGD for the rest.
        lr: peak learning rate of a one-cycle schedule.
        warmup: share of the steps before the peak, in (0, 1).
        weight_decay: applies to weights of two or more dimensions only.
        label_smoothing: in [0, 1).
        ema_decay: decay of the weights' moving average for each step, in [0, 1); the average is what a run keeps.
        grad_clip: largest norm of the gradient; a larger one is scaled down.
        crop_padding: largest shift of a random crop, in pixels; borders are reflected.
        cutout: side in pixels of a grey square at a random place of every image (DeVries & Taylor 2017); 0 for none.
        flip: mirror half of the images.
        fine_tunes: the run must start from a finished run.
        restored: the target gets an OUDefend block.
        trained: the part that is trained: `all`; `norm`, the BatchNorm or adaptive layers; `head`, the classifier; or
            `norm+head`.
        attack_steps: PGD steps of the attack on each training image; 0 trains on clean images.
        attack_eps: Linf budget of the attack, in units of [0, 1] pixels.
        attack_step_size: length of one step, in the same units; None takes 2.5 eps / steps, for a single step 1.25 eps,
            without projection eps.
        eps_ramp: share of the training during which the budget grows from 0 to `attack_eps`, in [0, 1].
        attack_noise: half-width of the random start, as a multiple of `attack_eps`.
        attack_start: `uniform` noise, or `sign`: each value moves up or down by the half-width.
        attack_loss: what the attack maximises: `ce`, cross-entropy, or `kl`, divergence from clean predictions.
        attack_projected: project onto the ball of `attack_eps`; False keeps only the pixel range [0, 1].
        photometric: largest relative change of an image's brightness and of its contrast, in [0, 1).
        ema_half_life: half-life of the moving average as a share of the training, independent of batch size and epochs
            (NuAT's 0.9998 at batch 64 for 100 epochs is 0.045); replaces `ema_decay` if set.
        loss_on: images whose cross-entropy is minimised; `clean` needs `kl_weight` or `nuclear_weight`.
        kl_weight: weight of the KL divergence from clean to adversarial predictions; the beta of TRADES.
        nuclear_weight: final weight of the nuclear norm of the difference between clean and adversarial logits, divided
            by the batch size (Sriramanan et al. 2021, NuAT). It is given for batches of 64 and scaled for others. The
            attack maximises the term too, in every second batch.
        nuclear_start: share of `nuclear_weight` at the beginning, in [0, 1]; it grows linearly to 1. NuAT begins at 0;
            a network that is robust already keeps that from 1.
        weight_perturbation: size of adversarial weight perturbations as a share of each weight's norm (Wu et al. 2020,
            AWP); 0 for none.
        self_distillation: share of a label that the averaged network's prediction on the clean image replaces at the
            end, growing linearly from 0 (after Wu et al. 2024, ADR).
        teacher_weight: of the KL divergence from a frozen teacher's predictions on clean images to the network's on
            adversarial ones (Goldblum et al. 2020, ARD; on clean data, distillation).
        feature_weight: of the distance between a frozen teacher's similarities of clean images and the network's of
            adversarial ones, computed from features (Tung & Mori 2019); the teacher may have other classes. Their
            published weight, 3000 for batches of 128, is 23 here.
        fixed_statistics: share of each batch that BatchNorm normalises by the running statistics from before the
            training, in [0, 0.9] (Liu et al. 2023, TWINS, which takes 0.5).
        masking: side in pixels of the patch of double masking (Xiang et al. 2022): masks of its mask set hide parts of
            every image; 0 for none. The clean images of the other terms are seen through the same masks.
        mask_grid: masks of the set along each axis, its k, at least 2.
        masks: masks on each image at once; certification evaluates pairs.
        mask_choices: random candidates for each mask, of which the one with the largest loss is taken (Saha et al.
            2023, Greedy Cutout; they take the whole set); 1 takes a random mask.
        noise: deviation of Gaussian noise on every image, in units of [0, 1] pixels, for randomised smoothing (Cohen et
            al. 2019). Noisy pixels are not clipped.
        consistency: weight of the divergence between predictions under two draws of the noise (Jeong & Shin 2020).
    """

    name: str
    summary: str
    adaptive: bool = False
    epochs: int = 20
    batch_size: int = 256
    optimizer: Optimizer = "sgd"
    lr: float = 0.4
    warmup: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema_decay: float = 0.995
    grad_clip: float = 5.0
    crop_padding: int = 4
    cutout: int = 0
    flip: bool = True
    fine_tunes: bool = False
    restored: bool = False
    trained: Trained = "all"
    attack_steps: int = 0
    attack_eps: float = 8 / 255
    attack_step_size: float | None = None
    eps_ramp: float = 0.0
    attack_noise: float = 1.0
    attack_projected: bool = True
    photometric: float = 0.0
    attack_start: Start = "uniform"
    attack_loss: AttackLoss = "ce"
    ema_half_life: float | None = None
    loss_on: Images = "adversarial"
    kl_weight: float = 0.0
    nuclear_weight: float = 0.0
    nuclear_start: float = 0.0
    weight_perturbation: float = 0.0
    self_distillation: float = 0.0
    teacher_weight: float = 0.0
    feature_weight: float = 0.0
    fixed_statistics: float = 0.0
    masking: int = 0
    mask_grid: int = 3
    masks: int = 2
    mask_choices: int = 1
    noise: float = 0.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (1, 100_000),
            "batch_size": (2, 65_536),
            "lr": (0.0, 100.0),
            "warmup": (0.001, 0.999),
            "momentum": (0.0, 0.9999),
            "weight_decay": (0.0, 1.0),
            "label_smoothing": (0.0, 0.999),
            "ema_decay": (0.0, 0.99999),
            "grad_clip": (1e-6, 1e6),
            "crop_padding": (0, 4096),
            "cutout": (0, 4096),
            "attack_steps": (0, 1000),
            "attack_eps": (0.0, 1.0),
            "eps_ramp": (0.0, 1.0),
            "attack_noise": (0.0, 10.0),
            "photometric": (0.0, 0.99),
            "ema_half_life": (1e-6, 1.0),
            "kl_weight": (0.0, 1000.0),
            "nuclear_weight": (0.0, 1000.0),
            "nuclear_start": (0.0, 1.0),
            "weight_perturbation": (0.0, 1.0),
            "self_distillation": (0.0, 1.0),
            "teacher_weight": (0.0, 1000.0),
            "feature_weight": (0.0, 10_000.0),
            "fixed_statistics": (0.0, 0.9),
            "masking": (0, 4096),
            "mask_grid": (2, 16),
            "masks": (1, 8),
            "mask_choices": (1, 256),
            "noise": (0.0, 10.0),
            "consistency": (0.0, 1000.0),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{field} is {value}, expected {low} to {high}")
        for field, kind in _CHOICES.items():
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(f"{field} is {getattr(self, field)!r}, expected one of {', '.join(get_args(kind))}")
        if self.loss_on == "clean" and self.attack_steps and not self.pairs_images:
            raise ConfigError("loss_on is 'clean' without kl_weight or nuclear_weight: no term would train robustness")
        if self.pairs_images and not self.attack_steps:
            raise ConfigError("kl_weight and nuclear_weight need adversarial images; set attack_steps")
        if self.consistency and not self.noise:
            raise ConfigError("consistency compares two draws of noise; set noise, such as noise=0.25")
        if self.fixed_statistics and self.feature_weight:
            raise ConfigError("feature_weight needs one pass of each batch; set fixed_statistics to 0")
        if not self.masking and (self.mask_grid, self.masks, self.mask_choices) != (3, 2, 1):
            raise ConfigError("mask_grid, masks and mask_choices need masks; set masking to the side of a patch")

    @property
    def passes(self) -> int:
        """Network passes of one step in units of N: 2N standard, 3N ABNN, 2N(t + 1) PGD-AT (the papers' count).

        Forward and backward count one each. A training step of an adaptive network adds the substitute's forward; an
        attack through both networks adds its forward and backward, t times. Terms that compare clean and adversarial
        images train on both, consistency on two noisy ones; a weight perturbation costs as much again;
        self-distillation, a teacher and each candidate of a mask add a forward.
        """
        images = 1 + self.pairs_images + bool(self.consistency)
        trained = (2 + self.adaptive) * images * (1 + bool(self.weight_perturbation))
        judged = self.masks * self.mask_choices * (1 + self.adaptive) if self.mask_choices > 1 else 0
        distilled = (1 + self.adaptive) * bool(self.self_distillation)
        return trained + judged + distilled + self.has_teacher + self.attack_steps * (2 + 2 * self.adaptive)

    @property
    def has_teacher(self) -> bool:
        """Whether the loss compares with a frozen teacher."""
        return bool(self.teacher_weight or self.feature_weight)

    @property
    def pairs_images(self) -> bool:
        """Whether the loss compares predictions on clean and on adversarial images."""
        return bool(self.kl_weight or self.nuclear_weight)

    @property
    def relative_step_size(self) -> float:
        """Length of one attack step as a share of the budget."""
        if self.attack_step_size is not None and self.attack_eps:
            return self.attack_step_size / self.attack_eps
        if not self.attack_projected:
            return 1.0
        return 1.25 if self.attack_steps == 1 else 2.5 / max(self.attack_steps, 1)


_CHOICES: dict[str, Any] = {
    "trained": Trained,
    "optimizer": Optimizer,
    "attack_start": Start,
    "attack_loss": AttackLoss,
    "loss_on": Images,
}
