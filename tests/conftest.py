"""One thread per test process: two processes share two cores, and results of training must not depend on how many."""

import torch

torch.set_num_threads(1)
