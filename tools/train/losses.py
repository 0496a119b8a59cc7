"""What training minimises besides the quantiser's commitment."""
import torch.nn.functional as F


def reconstruction(y, x):
    """L1 and squared error, and L1 of the gradients on three scales."""
    loss = (y - x).abs().mean() + 4 * ((y - x) ** 2).mean()
    for level in range(3):
        if level:
            y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
        error = y - x
        across, down = error[..., :, 1:] - error[..., :, :-1], error[..., 1:, :] - error[..., :-1, :]
        loss = loss + 0.3 * (across.abs().mean() + down.abs().mean())
    return loss


def semantic(prediction, target):
    return 1 - F.cosine_similarity(prediction, target, dim=-1).mean()
