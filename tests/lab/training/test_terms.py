from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from abnn_serve.errors import ConfigError, TrainingError
from abnn_serve.lab.training.adversarial import craft
from abnn_serve.lab.training.batches import to_input
from abnn_serve.lab.training.collapse import find_collapse
from abnn_serve.lab.training.pretrained import load_teacher
from abnn_serve.lab.training.recipe import Recipe
from abnn_serve.lab.training.recipe_settings import with_settings
from abnn_serve.lab.training.recipes import RECIPES
from abnn_serve.lab.training.state import TrainingState
from abnn_serve.lab.training.terms import Step, Teacher, kl, nuclear, nuclear_weight, step_loss
from abnn_serve.lab.training.train import train
from abnn_serve.lab.training.weight_perturbation import perturbed_weights
from abnn_serve.spec import Labels
from tests.conftest import request_for

CE = nn.functional.cross_entropy


def _step(progress: float = 0.5) -> tuple[nn.Module, Step]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = torch.rand(6, 3, 2, 2)
    return network, Step(x=x, x_adv=x + 0.1, y=torch.tensor([0, 1, 2, 0, 1, 2]), progress=progress)


def _loss(recipe: Recipe, network: nn.Module, step: Step) -> torch.Tensor:
    return step_loss(recipe, network, step, average=lambda x: 5 * x.flatten(1)[:, :3])[0]


def test_kl_and_nuclear_norm_are_what_their_sources_define():
    a, b = torch.randn(2, 7, 4)
    reference = nn.functional.kl_div(b.log_softmax(dim=1), a.softmax(dim=1), reduction="none").sum(dim=1)
    assert torch.allclose(kl(a, b), reference, atol=1e-6)
    assert kl(a, a).abs().max() < 1e-6
    assert nuclear(a, b) == pytest.approx(float(torch.linalg.svdvals(a - b).sum()), rel=1e-5)


def test_without_terms_the_loss_is_cross_entropy_on_adversarial_images():
    network, step = _step()
    assert torch.equal(_loss(RECIPES["pgd-at"], network, step), CE(network(step.x_adv), step.y, label_smoothing=0.1))


def test_trades_adds_divergence_to_cross_entropy_on_clean_images():
    network, step = _step()
    clean, adversarial = network(step.x), network(step.x_adv)
    expected = CE(clean, step.y) + 6 * kl(clean, adversarial).mean()
    assert torch.allclose(_loss(RECIPES["trades"], network, step), expected)


def test_the_nuclear_term_grows_with_training_and_holds_at_any_batch_size():
    network, step = _step(progress=0.5)
    recipe = replace(RECIPES["nuat"], batch_size=64)
    clean, adversarial = network(step.x), network(step.x_adv)
    assert torch.allclose(
        _loss(recipe, network, step), CE(clean, step.y) + 4 * 0.5 * nuclear(clean, adversarial) / len(step.y)
    )
    assert nuclear_weight(recipe, 0.0) == 0
    assert nuclear_weight(replace(recipe, nuclear_start=1.0), 0.0) == nuclear_weight(recipe, 1.0)
    assert nuclear_weight(replace(recipe, batch_size=256), 1.0) == 2 * nuclear_weight(recipe, 1.0)


def test_self_distillation_mixes_labels_with_the_averages_predictions():
    network, step = _step(progress=0.5)
    recipe = replace(RECIPES["fast-at"], label_smoothing=0.0, self_distillation=0.4)
    soft = 0.8 * nn.functional.one_hot(step.y, 3) + 0.2 * (5 * step.x.flatten(1)[:, :3]).softmax(dim=1)
    assert torch.allclose(_loss(recipe, network, step), CE(network(step.x_adv), soft))


def test_a_teachers_term_is_its_divergence_on_clean_images():
    network, step = _step()
    recipe = replace(RECIPES["fast-at"], label_smoothing=0.0, teacher_weight=2.0)
    loss, _ = step_loss(recipe, network, step, network, Teacher(lambda x: 5 * x.flatten(1)[:, :3]))
    expected = CE(network(step.x_adv), step.y) + 2 * kl(5 * step.x.flatten(1)[:, :3], network(step.x_adv)).mean()
    assert torch.allclose(loss, expected)


def test_a_network_learns_from_a_teacher(shapes, standard_run, bundle, tmp_path):
    plain = request_for(shapes, "fast-at", epochs=1)
    recipe = replace(plain.recipe, teacher_weight=3.0)
    runs = [train(plain, tmp_path / "plain")]
    for teacher in (standard_run.path, bundle.path):
        runs.append(train(replace(plain, recipe=recipe, teacher=str(teacher)), tmp_path / f"by-{teacher.name}"))
        assert runs[-1].config.teacher_source == teacher.name
    heads = [run.network().state_dict()["body.classifier.weight"] for run in runs]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


def test_a_teacher_that_does_not_fit_is_refused(shapes, standard_run, tmp_path):
    for options in ({"teacher": str(standard_run.path)}, {"recipe": replace(RECIPES["fast-at"], teacher_weight=1.0)}):
        with pytest.raises(ConfigError, match=r"--teacher and --set teacher_weight=1 .* go together"):
            replace(request_for(shapes, "fast-at"), **options)
    recipe = replace(RECIPES["fast-at"], teacher_weight=1.0)
    config = replace(standard_run.config, recipe=recipe, labels=Labels(names=("a", "b", "c")))
    with pytest.raises(ConfigError, match="has a different input or different classes"):
        load_teacher(str(standard_run.path), config)


def test_nuats_attack_starts_from_signs_stays_in_the_ball_and_alternates(standard_run, val_data):
    network = standard_run.network()
    x, y = to_input(val_data.images[:16]), torch.from_numpy(val_data.labels[:16])
    recipe = replace(RECIPES["nuat"], batch_size=16, nuclear_weight=100.0)

    def crafted(step: int, **changes: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return craft(replace(recipe, **changes), network, x, y, 1.0, generator, step=step)

    start = (crafted(1, attack_step_size=0.0) - x).abs()
    inside = (x > 0.1) & (x < 0.9)
    assert torch.allclose(start[inside], torch.tensor(4 / 255), atol=1e-6)
    assert (crafted(1) - x).abs().max() <= 8 / 255 + 1e-6
    assert nuclear(network(x), network(crafted(2))) > nuclear(network(x), network(crafted(1)))


def test_the_kl_attack_of_trades_raises_the_divergence(standard_run, val_data):
    network = standard_run.network()
    x, y = to_input(val_data.images[:16]), torch.from_numpy(val_data.labels[:16])
    x_adv = craft(RECIPES["trades"], network, x, y, 1.0, torch.Generator().manual_seed(0))
    noisy = x + 0.03 * 8 / 255
    assert kl(network(x), network(x_adv)).mean() > 10 * kl(network(x), network(noisy)).mean()


def test_weights_are_perturbed_along_the_gradient_and_put_back(standard_run, val_data):
    network = standard_run.network().train()
    x, y = to_input(val_data.images[:16]), torch.from_numpy(val_data.labels[:16])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss = float(CE(network(x), y).detach())
    network.load_state_dict(before)
    with perturbed_weights(network, 0.01, 0.5, lambda: CE(network(x), y)):
        for name, value in network.named_parameters():
            moved = (value - before[name]).norm() / before[name].norm()
            assert float(moved.detach()) == pytest.approx(0.01 if value.dim() > 1 else 0.0, rel=1e-3)
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers() if name in before)
        assert float(CE(network(x), y).detach()) > loss
    assert all(torch.equal(value.detach(), before[name]) for name, value in network.named_parameters())
    with perturbed_weights(network, 0.01, 0.0, lambda: CE(network(x), y)):
        assert all(torch.equal(value.detach(), before[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("nuat", []),
        ("trades", ["attack_steps=2"]),
        ("n-fgsm", ["kl_weight=3"]),
        ("n-fgsm", ["weight_perturbation=0.01"]),
        ("n-fgsm", ["self_distillation=0.5"]),
        ("n-fgsm", ["masking=5"]),
        ("n-fgsm", ["noise=0.1"]),
    ],
)
def test_every_term_changes_what_is_learned(recipe, settings, shapes, tmp_path):
    request = request_for(shapes, recipe, epochs=1)
    changed = replace(request, recipe=with_settings(request.recipe, settings))
    plain = replace(request, recipe=replace(RECIPES["n-fgsm"], epochs=1, batch_size=32, lr=0.1))
    weights = [train(each, tmp_path / name).network().state_dict() for each, name in ((changed, "a"), (plain, "b"))]
    assert all(torch.isfinite(value).all() for value in weights[0].values())
    assert not torch.equal(weights[0]["body.classifier.weight"], weights[1]["body.classifier.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss_on=clean"], "loss_on is 'clean' without kl_weight or nuclear_weight"),
        (["kl_weight=3", "attack_steps=0"], "need adversarial images; set attack_steps"),
        (["attack_start=gauss"], "attack_start is 'gauss', expected one of uniform, sign"),
        (["consistency=10"], "consistency compares two draws of noise; set noise, such as noise=0.25"),
        (["masks=1"], "need masks; set masking to the side of a patch"),
        (["masking=5", "mask_grid=1"], "mask_grid is 1, expected 2 to 16"),
        (["self_distillation=2"], "self_distillation is 2.0, expected 0.0 to 1.0"),
    ],
)
def test_terms_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(RECIPES["fast-at"], settings)


def test_the_averages_half_life_is_a_share_of_the_training():
    network = nn.Linear(2, 2)
    recipe = replace(RECIPES["n-fgsm"], epochs=10, ema_half_life=0.1)
    state = TrainingState(network, recipe, steps=100)
    start = state.average.weight.clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    state.schedule.last_epoch = 10**6
    for _ in range(100):
        state._average()
    assert torch.allclose(state.average.weight, start + 0.5, atol=1e-3)


def test_a_fall_of_robust_accuracy_is_told_from_noise():
    history = [{"val_pgd_accuracy": 0.3}, {"val_pgd_accuracy": 0.4}]
    assert find_collapse(history, {"val_pgd_accuracy": 0.02}) == 0.4
    assert find_collapse(history, {"val_pgd_accuracy": 0.25}) is None
    assert find_collapse([{"val_pgd_accuracy": 0.06}], {"val_pgd_accuracy": 0.01}) is None
    assert find_collapse([], {"val_pgd_accuracy": 0.0}) is None


def test_catastrophic_overfitting_stops_the_training(shapes, tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.01])
    monkeypatch.setattr("abnn_serve.lab.training.validation._pgd_accuracy", lambda *_: next(accuracies))
    with pytest.raises(
        TrainingError, match=r"fell from 50.0% to 1.0% in epoch 2; .* epoch-000001.pt; start again with"
    ):
        train(request_for(shapes, "fast-at", epochs=3), tmp_path / "run")
    assert not (tmp_path / "run" / "weights.pt").exists()
