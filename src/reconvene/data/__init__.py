"""Images and targets, decoded once into tensors, and batches that a seed and an epoch fully determine."""

from reconvene.data.batches import Batch, test_batches, train_batches
from reconvene.data.calibration import Calibration, calibration, stratified_calibration
from reconvene.data.dataset import Dataset, Split
from reconvene.data.fingerprint import files_sha256
from reconvene.data.load import count_images, load_data, require_data_at
from reconvene.data.preprocessing import Normalisation, Preprocessing
from reconvene.tasks import Augmentation

__all__ = [
    "Augmentation",
    "Batch",
    "Calibration",
    "Dataset",
    "Normalisation",
    "Preprocessing",
    "Split",
    "calibration",
    "count_images",
    "files_sha256",
    "load_data",
    "require_data_at",
    "stratified_calibration",
    "test_batches",
    "train_batches",
]
