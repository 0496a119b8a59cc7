"""The first weights: the skip path of the pixel branch carries the colours from step 0.

Channels 0, 4 and 8 of the skip path start as red, green and blue (averaged on the way down, blurred on the way up), the
last channel of every group of four starts as a constant, so that the final group norms keep amplitudes, and every
residual branch starts at zero. Without this the mean colour of a region takes most of the training to arrive.

The semantic latent starts near one direction, as long as there are scales: each scale takes one unit vector off it, so it
costs no choice of codes at first, and what the semantic branch learns grows as a deviation from there (the semantic
decoder starts by taking that direction off again).
"""
import torch

from model import Attention, ResBlock

COLOURS = (0, 4, 8)
CONSTANT = 4.0


def carry_colours(conv, kernel, sources=COLOURS):
    for target, source in zip(COLOURS, sources):
        conv.weight[target].zero_()
        conv.weight[target, source] = kernel
        conv.bias[target] = 0


def constant_channels(bias, norm):
    """A constant in the last channel of each group; the norm's affine part then keeps swish close to linear."""
    group = norm.num_channels // norm.num_groups
    bias.view(-1, group)[:, -1] += CONSTANT
    norm.weight.fill_(1.9)
    norm.bias.fill_(2.5)
    norm.bias.view(-1, group)[:, -1] = -3.0


@torch.no_grad()
def initialize(model):
    for module in model.modules():
        if isinstance(module, ResBlock):
            module.conv2.weight.zero_()
            module.conv2.bias.zero_()
        elif isinstance(module, Attention):
            module.proj_out.weight.zero_()
            module.proj_out.bias.zero_()
    here = torch.zeros(3, 3)
    here[1, 1] = 1
    mean = torch.zeros(3, 3)
    mean[:2, :2] = 0.25
    slope = torch.tensor([1.0, 2.0, 1.0]) / 4
    encoder, decoder = model.encoder, model.decoder
    carry_colours(encoder.conv_in, 2 * here, (0, 1, 2))
    carry_colours(encoder.conv_out, here)
    carry_colours(decoder.conv_in, here)
    for level in [*encoder.conv_blocks, *decoder.conv_blocks]:
        for block in level.res:
            if hasattr(block, "nin_shortcut"):
                carry_colours(block.nin_shortcut, torch.ones(1, 1))
        if hasattr(level, "downsample"):
            carry_colours(level.downsample.conv, mean)
        if hasattr(level, "upsample"):
            carry_colours(level.upsample.conv, slope[:, None] * slope[None])
    constant_channels(last_skip_bias(encoder.conv_blocks), encoder.norm_out)
    constant_channels(last_skip_bias(decoder.conv_blocks), decoder.norm_out)
    decoder.conv_out.weight.mul_(0.1)
    head = model.encode_task_layer[2]
    direction = torch.nn.functional.normalize(torch.randn_like(head.bias), dim=0)
    head.bias.copy_(direction * len(model.quantize.scales))
    reader = model.decoder_vqkd.patch_embed.proj
    reader.bias.copy_(-reader.weight[:, :, 0, 0] @ head.bias)


def last_skip_bias(levels):
    """The bias of the last convolution that lies on the skip path of the levels."""
    shortcuts = [block.nin_shortcut.bias for block in levels[-1].res if hasattr(block, "nin_shortcut")]
    if shortcuts:
        return shortcuts[-1]
    below = levels[-2]
    return (below.downsample if hasattr(below, "downsample") else below.upsample).conv.bias
