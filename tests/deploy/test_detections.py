"""Detectors are exported, and their detections are compared whatever rounding does to the order of equal scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reconvene as rc
from reconvene.deploy import installed
from reconvene.deploy.batch_comparison import BatchComparison
from reconvene.deploy.box_suppression import one_suppression
from reconvene.deploy.detections import in_same_order

boxes = pytest.importorskip("torchvision.ops.boxes")


def _detections(scores: list[float], *, image: str = "output_0") -> dict[str, Tensor]:
    count = len(scores)
    corners = torch.arange(4.0 * count).reshape(count, 4)
    return {
        f"{image}.boxes": corners,
        f"{image}.labels": torch.arange(count),
        f"{image}.scores": torch.tensor(scores),
    }


def _rows(detections: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    return {name: rows[order] for name, rows in detections.items()}


def _error(expected: dict[str, Tensor], outputs: dict[str, Tensor]) -> float:
    return BatchComparison(1).with_batch(expected, outputs, location="a file").max_rel_error


@pytest.mark.parametrize("count", [0, 1, 40, 4100])
def test_suppression_without_a_branch_chooses_the_same_boxes(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 20
    candidates = torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 9], 1)
    scores = torch.rand(count, generator=generator)
    classes = torch.randint(0, 3, (count,), generator=generator)
    expected = boxes.batched_nms(candidates, scores, classes, 0.4)
    with one_suppression():
        assert torch.equal(boxes.batched_nms(candidates, scores, classes, 0.4), expected)


def test_the_suppression_of_torchvision_comes_back_after_an_error() -> None:
    before = boxes.batched_nms
    with pytest.raises(ZeroDivisionError), one_suppression():
        assert boxes.batched_nms is not before
        raise ZeroDivisionError
    assert boxes.batched_nms is before


def test_ties_in_another_order_are_the_same_detections() -> None:
    expected = _detections([0.9, 0.5, 0.5, 0.5, 0.1])
    assert _error(expected, _rows(expected, [0, 3, 1, 2, 4])) == 0


def test_every_image_has_an_order_of_its_own() -> None:
    first, second = _detections([0.5, 0.5]), _detections([0.7, 0.7, 0.2], image="output_1")
    assert _error(first | second, _rows(first, [1, 0]) | _rows(second, [1, 0, 2])) == 0


def test_a_file_that_does_not_order_by_score_is_wrong() -> None:
    expected = _detections([0.9, 0.5, 0.1])
    assert _error(expected, _rows(expected, [2, 0, 1])) > 0.5


def test_another_box_is_found_in_spite_of_ties() -> None:
    expected = _detections([0.5, 0.5, 0.5])
    outputs = _rows(expected, [2, 1, 0])
    outputs["output_0.boxes"] = outputs["output_0.boxes"] + torch.tensor([[0.0], [4.0], [0.0]])
    assert _error(expected, outputs) > 0.3


def test_rows_without_scores_stay_where_they_are() -> None:
    expected = {"boxes": torch.arange(8.0).reshape(2, 4), "names": torch.arange(2)}
    swapped = {name: rows.flip(0) for name, rows in expected.items()}
    assert all(torch.equal(in_same_order(expected, swapped)[name], swapped[name]) for name in swapped)


class Detector(nn.Module):
    """A head of the usual kind: candidates of every cell, the best of each class, suppressed where they overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.scores, self.corners = nn.Conv2d(16, 3, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        scores, labels = self.scores(features)[0].flatten(1).sigmoid().max(0)
        left, top, width, height = self.corners(features)[0].flatten(1).exp()
        candidates = torch.stack([left, top, left + width, top + height], 1)
        chosen = torch.where(scores > 0.5)[0]
        kept = boxes.batched_nms(candidates[chosen], scores[chosen], labels[chosen], 0.5)
        return {"boxes": candidates[chosen][kept], "labels": labels[chosen][kept], "scores": scores[chosen][kept]}


@pytest.mark.skipif("onnxruntime" not in installed(), reason="the onnx extra is not installed")
def test_a_pruned_detector_is_exported_and_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    small = rc.prune(Detector().eval(), x, rc.Budget(params="2x"), criterion="magnitude", rectify="keep")
    exported = rc.export(small.eval(), tmp_path, format="onnx", example_inputs=x)
    assert exported.verification is not None and exported.path.exists()
