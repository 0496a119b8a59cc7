"""The shipped model read back from its folder, in float32 from the half-precision weights."""
import json
import os

import torch

import tensors
from model import SHAPE, TokenFlow
from paths import MODEL


def shape_of(arrays, config):
    """The shape of the model, from its tensors and what config.json adds."""

    def count(prefix):
        return len({name[len(prefix) :].split(".")[0] for name in arrays if name.startswith(prefix)})

    def widths(part, key):
        levels = count(f"{part}.conv_blocks.")
        return [arrays[f"{part}.conv_blocks.{i}.res.{key}.conv2.weight"].shape[0] for i in range(levels)]

    return {
        **SHAPE,
        "imageSize": config["trainedImageSize"],
        "patch": arrays["encoder_vqkd.conv1.weight"].shape[-1],
        "encoderChannels": widths("encoder", 0),
        "decoderChannels": widths("decoder", 0),
        "encoderBlocks": count("encoder.conv_blocks.0.res."),
        "decoderBlocks": count("decoder.conv_blocks.0.res."),
        "zChannels": arrays["quant_conv.weight"].shape[1],
        "semanticWidth": arrays["encoder_vqkd.conv1.weight"].shape[0],
        "semanticLayers": count("encoder_vqkd.transformer.resblocks."),
        "semanticHeads": config["semanticEncoderHeads"],
        "semanticDecoderWidth": arrays["decoder_vqkd.cls_token"].shape[-1],
        "semanticDecoderLayers": count("decoder_vqkd.blocks."),
        "semanticDecoderHeads": config["semanticDecoderHeads"],
        "semanticOutput": arrays["decode_task_layer.2.weight"].shape[0],
        "semanticCodeDim": config["semanticCodeDim"],
        "pixelCodeDim": config["pixelCodeDim"],
        "codebookSize": config["codebookSize"],
        "scales": config["scales"],
        "groupNorm": config["groupNorm"],
    }


def load(folder=MODEL):
    with open(os.path.join(folder, "config.json"), encoding="utf8") as file:
        config = json.load(file)
    arrays = tensors.load(os.path.join(folder, "model.safetensors"))
    model = TokenFlow(shape_of(arrays, config))
    model.load_state_dict({name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()})
    return model.eval(), config
