"""Networks on encrypted images, with real encryption: the same answers, and the predicted levels and rotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reconvene.deploy.encrypted import EncryptedNetwork
from reconvene.errors import ArgumentError, ModelError, UnknownNameError, VerificationError
from support.small_modules import Square

tenseal = pytest.importorskip("tenseal", reason="the extra 'encrypted' is not installed")


class Residual(nn.Module):
    """A strided convolution, a residual block with a norm, a polynomial, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * x
        x = x + self.norm(self.body(x))
        x = (0.2 * x + 0.5) * x + 0.1
        return self.head(x.mean((2, 3)))


def seeded(make: Any) -> nn.Module:
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    return net


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), Square(), nn.Linear(5, 3))


@pytest.mark.parametrize("packing", ["batch", "vector"])
def test_a_network_answers_as_in_pytorch_with_the_predicted_cost(packing: str) -> None:
    net, images = seeded(mlp), torch.rand(4, 1, 4, 4)
    network = EncryptedNetwork(net, images[:1], packing=packing)
    run = network.run(images)
    assert torch.allclose(run.scores, net(images).double(), atol=1e-4)
    assert run.levels == network.readiness.levels == 3
    if packing == "batch":
        assert (run.rotations, run.ciphertexts) == (0, network.readiness.ciphertexts)
        assert run.products == 16 * 5 + 5 + 5 * 3  # the multiply-accumulates, and a square a feature
    else:
        assert run.rotations == network.readiness.rotations == 17 + 6


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["batch", "vector"])
def test_convolutions_norms_polynomials_and_residual_sums(packing: str) -> None:
    net, images = seeded(Residual), torch.rand(2, 1, 4, 4)
    network = EncryptedNetwork(net, images[:1], packing=packing)
    run = network.run(images)
    assert torch.allclose(run.scores, net(images).double(), atol=1e-2)
    assert run.levels == network.readiness.levels
    assert run.rotations == (network.readiness.rotations if packing == "vector" else 0)


def test_a_batch_norm_and_pooling() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), Square(), nn.AvgPool2d(2), nn.Flatten()))
    images = torch.rand(2, 1, 3, 3)
    assert torch.allclose(EncryptedNetwork(net, images).run(images).scores, net(images).double(), atol=1e-3)


def test_the_silent_trap_of_a_bias_between_two_matrices() -> None:
    """TenSEAL itself is wrong here without a word; our packing has the bias as a row of the matrix and is right."""
    net, image = seeded(mlp), torch.rand(1, 1, 4, 4)
    nn.init.constant_(net[1].bias, 1.0)
    expected = net(image)[0].detach().double()
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[49, 39, 39, 39, 49])
    context.global_scale = 2**39
    context.generate_galois_keys()
    vector = tenseal.ckks_vector(context, image.flatten().tolist())
    hidden = vector.mm(net[1].weight.T.tolist()) + net[1].bias.tolist()
    naive = (
        torch.tensor(hidden.square().mm(net[3].weight.T.tolist()).decrypt()).double() + net[3].bias.detach().double()
    )
    assert float((naive - expected).abs().max()) > 0.05
    ours = EncryptedNetwork(net, image, packing="vector").run(image).scores[0]
    assert float((ours - expected).abs().max()) < 1e-4


def test_weights_that_are_zero_stay_out_of_the_sums() -> None:
    net, images = seeded(mlp), torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        net[1].weight[:, ::2] = 0
        net[1].weight[2] = 0
    run = EncryptedNetwork(net, images[:1]).run(images)
    assert torch.allclose(run.scores, net(images).double(), atol=1e-4)


def test_what_cannot_run_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="relu in 2 cannot run on encrypted numbers"):
        EncryptedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU()), torch.rand(1, 1, 4, 4))
    with pytest.raises(UnknownNameError, match="packing"):
        EncryptedNetwork(mlp(), torch.rand(1, 1, 4, 4), packing="square")
    with pytest.raises(ModelError, match=r"mean in the model itself .* compute every image by itself"):
        EncryptedNetwork(Calls(lambda net, x: x - x.mean(0, keepdim=True)), torch.rand(1, 4))
    with pytest.raises(ModelError, match=r"add in the model itself .* out of place"):
        EncryptedNetwork(Calls(lambda net, x: (x.view(-1, 2, 2), x.add_(1.0))[0]), torch.rand(1, 4))
    with pytest.raises(ModelError, match="does not depend on the images"):
        EncryptedNetwork(Calls(lambda net, x: torch.ones(1, 4)), torch.rand(1, 4))


class Calls(nn.Module):
    """A layer, and then calls of the caller's choice; a buffer counts passes, and a parameter is not used."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.spare, self.call = nn.Linear(4, 4), nn.Linear(4, 4), call
        self.register_buffer("passes", torch.zeros(4))
        self.register_buffer("steps", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, self.fc(x))


def changes_a_value_that_another_needs(net: nn.Module, x: Tensor) -> Tensor:
    y = 2 * x
    x.add_(net.steps)
    return y * y + x


def counts(net: nn.Module, x: Tensor) -> Tensor:
    net.passes.add_(1.0)
    return x * net.passes


def changes_a_constant_by_a_view(net: nn.Module, x: Tensor) -> Tensor:
    steps = net.steps.clone()
    steps[:2].add_(5.0)
    return (x * steps) @ torch.eye(4)


@pytest.mark.parametrize("call", [changes_a_value_that_another_needs, counts, changes_a_constant_by_a_view])
def test_calls_in_place_change_what_they_change_in_pytorch(call: Any) -> None:
    net, images = seeded(lambda: Calls(call)), torch.rand(2, 4)
    network = EncryptedNetwork(net, images[:1])
    runs = [network.run(images) for _ in range(2)]
    assert not net.passes.any()
    expected = net(images).double()
    for run in runs:
        assert torch.allclose(run.scores, expected, atol=2e-3)


@pytest.mark.parametrize("example_inputs", [torch.rand(3, 4), (torch.rand(1, 4),), {"input": torch.rand(2, 4)}])
def test_example_inputs_have_any_form_that_the_model_takes(example_inputs: Any) -> None:
    net, images = nn.Linear(4, 2), torch.rand(2, 4)
    assert torch.allclose(EncryptedNetwork(net, example_inputs).run(images).scores.float(), net(images), atol=1e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((torch.rand(1, 4), torch.rand(1, 4)), "takes one tensor of images, and the inputs .* hold 2"),
        (None, "takes one tensor of images, and the inputs .* hold 0"),
        (torch.rand(0, 4), "one image or more"),
        (torch.rand(4), "one image or more"),
        (torch.tensor([[0.0, 1.0, float("nan"), 1.0]]), "finite"),
        (torch.tensor([[0.0, 1.0, float("inf"), 1.0]]), "finite"),
    ],
)
def test_what_is_no_image_is_refused_in_words(images: Any, message: str) -> None:
    network = EncryptedNetwork(nn.Linear(4, 2), torch.rand(1, 4))
    with pytest.raises(ArgumentError, match=message):
        network.run(images)
    with pytest.raises(ArgumentError, match=message):
        EncryptedNetwork(nn.Linear(4, 2), images)
    broken = nn.Linear(4, 2)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(ModelError, match="not finite: look for nan in weights"):
        EncryptedNetwork(broken, torch.rand(1, 4))


class Both(nn.Module):
    """Two outputs, and a constant in a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("shift", torch.tensor([1.0, 2.0, 3.0]), persistent=False)
        self.two = True

    def forward(self, x: Tensor) -> Any:
        x = self.fc(x) + self.shift
        return (x, x) if self.two else x


def test_one_output_is_encrypted_and_buffers_that_are_not_saved_are_constants() -> None:
    net = seeded(Both)
    with pytest.raises(ModelError, match="gives one tensor, and Both gives 2"):
        EncryptedNetwork(net, torch.rand(1, 4))
    net.two = False
    images = torch.rand(2, 4)
    assert torch.allclose(EncryptedNetwork(net, images[:1]).run(images).scores.float(), net(images), atol=1e-3)


def test_a_layer_as_wide_as_a_ciphertext_is_refused_in_vector_packing() -> None:
    slots = EncryptedNetwork(nn.Linear(2, 3), torch.rand(1, 2)).parameters.slots
    wide = EncryptedNetwork(nn.Linear(2, slots - 1), torch.rand(1, 2), packing="vector")
    with pytest.raises(ModelError, match=f"{slots - 1} features do not fit into {slots} slots"):
        wide.run(torch.rand(1, 2))


def one_score(factor: float) -> nn.Module:
    """``factor * x ** 2`` of one number, in three levels."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), Square(), nn.Linear(1, 1, bias=False)).eval()
    nn.init.ones_(net[0].weight)
    nn.init.constant_(net[2].weight, factor)
    return net


@pytest.mark.parametrize("packing", ["batch", "vector"])
def test_parameters_have_room_for_the_scores_of_the_example_inputs(packing: str) -> None:
    image = torch.ones(1, 1)
    for score in (515.0, 1100.0, 3e5):
        run = EncryptedNetwork(one_score(score), image, packing=packing).run(image)
        assert float(run.scores) == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("packing", ["batch", "vector"])
def test_scores_are_right_or_an_error_however_large_they_are(packing: str) -> None:
    """The example inputs say nothing of the range here: some scores are over it, some wrap around to small ones."""
    network = EncryptedNetwork(one_score(1.0), torch.zeros(1, 1), packing=packing)
    assert network.parameters.largest == 1024
    refused = []
    for score in (400.0, 1500.0, 2048.0, 4096.0, 5000.0, 2.0**20):
        try:
            scores = network.run(torch.tensor([[score**0.5]])).scores
        except VerificationError as error:
            assert "cannot be trusted" in str(error)
            refused.append(score)
        else:
            assert float(scores) == pytest.approx(score, rel=1e-4)
    assert refused[-5:] == [1500.0, 2048.0, 4096.0, 5000.0, 2.0**20]


def test_numbers_without_room_are_refused_by_the_layer_that_gives_them() -> None:
    image = torch.ones(1, 1)
    with pytest.raises(ModelError, match=r"mm in 2: scores reach 1e\+10.*Scale the last layer down"):
        EncryptedNetwork(one_score(1e10), image)
    net = one_score(1e-16)
    nn.init.constant_(net[0].weight, 1e8)
    with pytest.raises(ModelError, match=r"mul in 1: numbers reach 1e\+16.*Scale the weights before"):
        EncryptedNetwork(net, image)


def test_weights_that_are_lost_at_the_scale_are_an_error() -> None:
    net, image = one_score(1e-11), torch.ones(1, 1)
    nn.init.constant_(net[0].weight, 1e6)
    with pytest.raises(VerificationError, match=r"known number .* is wrong by .* too small for a scale"):
        EncryptedNetwork(net, image).run(image)
