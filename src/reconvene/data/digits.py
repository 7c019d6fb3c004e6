"""scikit-learn's handwritten digits: 1797 real 8x8 scans (UCI, Alpaydin and Kaynak 1998), without a download."""

from __future__ import annotations

import numpy as np

from reconvene.data.source import DataSource, Rows, import_data_extra

SHAPE, COUNT = (3, 32, 32), 1797


def read_digits() -> DataSource:
    """All 1797 digits as grey 8x8 pictures, their 17 levels of ink stretched over 0..255.

    Raises:
        MissingExtraError: scikit-learn or pillow is absent.
    """
    loader = import_data_extra("sklearn.datasets", "scikit-learn", "the digits dataset")
    image = import_data_extra("PIL.Image", "pillow", "decoding images")
    bunch = loader.load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    rows = Rows(bunch.target.astype(np.int64), lambda i: image.fromarray(pixels[i]), lambda i: f"digits, row {i}")
    return DataSource("digits", tuple("0123456789"), rows, None, SHAPE)
