"""How far a detector changes its mind between an image and a degraded view of it."""

import torch
from torch import Tensor


def consistency_loss(logits: Tensor, of_views: Tensor) -> Tensor:
    r"""Symmetric Kullback-Leibler divergence between what is said of images and of views of them, mean over images.

    .. math:: \frac{1}{n} \sum_i \tfrac{1}{2} [KL(p_i \| q_i) + KL(q_i \| p_i)]
        = \frac{1}{2 n} \sum_i (p_i - q_i)(a_i - b_i)

    with p = sigmoid(a) and q = sigmoid(b) the probabilities that the image, and its view, is generated. Unlike the squared
    difference of logits it leaves alone what is sure of both alike, so that logits may grow.

    Args:
        logits: ``(N,)`` float, a, raw logits of images, with grad.
        of_views: ``(N,)``, b, of the view of each, with grad: each is drawn to the other.

    Returns:
        Scalar, at least 0; 0 where they agree.

    Reference:
        The prediction consistency of arXiv:2604.10102, there on two-class softmax outputs.

    Example:
        >>> consistency_loss(torch.tensor([0.0, 3.0]), torch.tensor([2.0, 3.0]))
        tensor(0.1904)
    """
    flip = torch.where(logits + of_views > 0, -1.0, 1.0).to(logits.dtype)  # differences of small probabilities keep digits
    one, other = flip * logits, flip * of_views
    return ((torch.sigmoid(one) - torch.sigmoid(other)) * (one - other)).mean() / 2
