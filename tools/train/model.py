"""A TokenFlow of any width in PyTorch, with the official key names. Runs on torch 1.13 and later."""
import torch
import torch.nn as nn
import torch.nn.functional as F

SHAPE = {
    "imageSize": 128,
    "patch": 8,
    "encoderChannels": [16, 32, 64, 128],
    "decoderChannels": [128, 64, 32, 32],
    "encoderBlocks": 2,
    "decoderBlocks": 3,
    "zChannels": 128,
    "semanticWidth": 144,
    "semanticLayers": 4,
    "semanticHeads": 3,
    "semanticDecoderWidth": 96,
    "semanticDecoderLayers": 3,
    "semanticDecoderHeads": 3,
    "semanticOutput": 256,
    "semanticCodeDim": 32,
    "pixelCodeDim": 8,
    "codebookSize": 8192,
    "scales": [1, 2, 4, 6, 8, 10, 12, 14, 16],
    "groupNorm": {"groups": 32, "minChannelsPerGroup": 4},
}


def group_norm(channels, rule=SHAPE["groupNorm"]):
    return nn.GroupNorm(min(rule["groups"], channels // rule["minChannelsPerGroup"]), channels, eps=1e-6)


class Precision:
    """Whether big products compute in bfloat16 while training; weights, inputs and outputs stay float32."""

    bfloat16 = False


def linear(x, weight, bias, training):
    if not (Precision.bfloat16 and training):
        return F.linear(x, weight, bias)
    return F.linear(x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()).float()


class Linear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias, self.training)


class Conv3x3(nn.Conv2d):
    def forward(self, x):
        if not (Precision.bfloat16 and self.training):
            return super().forward(x)
        weight, bias = self.weight.bfloat16(), self.bias.bfloat16()
        return F.conv2d(x.bfloat16(), weight, bias, self.stride, self.padding).float()


class ResBlock(nn.Module):
    skeleton = False  # only the skip path: for the first, cheap phase of training

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = Conv3x3(channels_in, channels_out, 3, 1, 1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = Conv3x3(channels_out, channels_out, 3, 1, 1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x):
        skip = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        if ResBlock.skeleton:
            return skip
        h = self.conv1(F.silu(self.norm1(x)))
        return skip + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        if ResBlock.skeleton:
            return x
        batch, channels, height, width = x.shape
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * channels**-0.5, 2)
        return x + self.proj_out(torch.bmm(v, weights.transpose(1, 2)).view(batch, channels, height, width))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = Conv3x3(channels, channels, 3, 2, 0)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = Conv3x3(channels, channels, 3, 1, 1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """`blocks` residual blocks, each followed by attention where asked, then perhaps a change of resolution."""

    def __init__(self, channels_in, channels, blocks, attention, resample):
        super().__init__()
        self.res = nn.ModuleList(ResBlock(channels if i else channels_in, channels) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(channels) for _ in range(blocks if attention else 0))
        if resample:
            self.add_module({Downsample: "downsample", Upsample: "upsample"}[resample], resample(channels))

    def forward(self, x):
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


def middle(channels):
    return nn.ModuleList([ResBlock(channels, channels), Attention(channels), ResBlock(channels, channels)])


class PixelEncoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        widths = shape["encoderChannels"]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, 1, 1)
        self.conv_blocks = nn.ModuleList(
            Level(widths[max(0, i - 1)], width, shape["encoderBlocks"], i == last, None if i == last else Downsample)
            for i, width in enumerate(widths)
        )
        self.mid = middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = Conv3x3(widths[-1], shape["zChannels"], 3, 1, 1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in [*self.conv_blocks, *self.mid]:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class PixelDecoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        widths = shape["decoderChannels"]
        last = len(widths) - 1
        self.conv_in = Conv3x3(shape["zChannels"], widths[0], 3, 1, 1)
        self.mid = middle(widths[0])
        self.conv_blocks = nn.ModuleList(
            Level(widths[max(0, i - 1)], width, shape["decoderBlocks"], i == 0, None if i == last else Upsample)
            for i, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, 1, 1)

    def forward(self, z):
        x = self.conv_in(z)
        for block in [*self.mid, *self.conv_blocks]:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def attend(q, k, v, training):
    """[B, heads, N, d] attention with queries already scaled, back to [B, N, heads * d]."""
    if Precision.bfloat16 and training:
        weights = torch.softmax((q.bfloat16() @ k.bfloat16().transpose(-1, -2)).float(), -1)
        out = (weights.bfloat16() @ v.bfloat16()).float()
    else:
        out = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
    return out.transpose(1, 2).flatten(2)


def split_heads(packed, heads):
    batch, tokens, width = packed.shape
    return packed.view(batch, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)


class ClipBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)  # only its parameters are used
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", Linear(width, 4 * width))
        self.mlp.add_module("c_proj", Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x):
        packed = linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias, self.training)
        q, k, v = split_heads(packed, self.heads)
        out = attend(q * q.shape[-1] ** -0.5, k, v, self.training)
        x = x + linear(out, self.attn.out_proj.weight, self.attn.out_proj.bias, self.training)
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class SemanticEncoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width, patch = shape["semanticWidth"], shape["patch"]
        tokens = (shape["imageSize"] // patch) ** 2
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(tokens + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            ClipBlock(width, shape["semanticHeads"]) for _ in range(shape["semanticLayers"])
        )
        self.ln_post = nn.LayerNorm(width)

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_post(x)[:, 1:]


class BeitAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)

    def forward(self, x):
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = split_heads(linear(x, self.qkv.weight, bias, self.training), self.heads)
        return self.proj(attend(q * q.shape[-1] ** -0.5, k, v, self.training))


class BeitMlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class BeitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.attn = BeitAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = BeitMlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SemanticDecoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape["semanticDecoderWidth"]
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(shape["semanticCodeDim"], width, 1)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, shape["scales"][-1] ** 2 + 1, width))
        self.blocks = nn.ModuleList(
            BeitBlock(width, shape["semanticDecoderHeads"]) for _ in range(shape["semanticDecoderLayers"])
        )
        self.fc_norm = nn.LayerNorm(width, 1e-6)

    def forward(self, z):
        x = self.patch_embed.proj(z).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x[:, 1:])


class Quantizer(nn.Module):
    """Multi-scale residual quantisation with one index into two codebooks of unit vectors."""

    def __init__(self, shape):
        super().__init__()
        self.scales = shape["scales"]
        self.semantic_dim = shape["semanticCodeDim"]
        self.embedding_vqkd = nn.Embedding(shape["codebookSize"], shape["semanticCodeDim"])
        self.embedding_vqgan = nn.Embedding(shape["codebookSize"], shape["pixelCodeDim"])
        for embedding in (self.embedding_vqkd, self.embedding_vqgan):
            embedding.weight.data = F.normalize(torch.randn_like(embedding.weight), dim=1)
            embedding.weight.requires_grad_(False)

    def normalize(self, z):
        """Both halves of [N, 40] to unit length."""
        halves = z[:, : self.semantic_dim], z[:, self.semantic_dim :]
        return torch.cat([F.normalize(half, dim=1, eps=1e-12) for half in halves], 1)

    def table(self):
        return self.normalize(torch.cat([self.embedding_vqkd.weight, self.embedding_vqgan.weight], 1))

    def nearest(self, z, table_t):
        """Index of the largest summed cosine, in pieces that stay in the cache."""
        return torch.cat([(piece @ table_t).argmax(1) for piece in z.split(512)])

    @torch.no_grad()
    def forward(self, h):
        """h [B, 40, g, g] -> (sums after each scale, normalised inputs, indices), the last two as one row per token."""
        grid = self.scales[-1]
        table = self.table()
        table_t = table.t().contiguous()
        residual, total = h, torch.zeros_like(h)
        sums, inputs, indices = [], [], []
        for scale in self.scales:
            pooled = residual if scale == grid else F.adaptive_avg_pool2d(residual, scale)
            z = self.normalize(pooled.permute(0, 2, 3, 1).reshape(-1, h.shape[1]))
            index = self.nearest(z, table_t)
            q = table[index].view(len(h), scale, scale, -1).permute(0, 3, 1, 2)
            if scale != grid:
                q = F.interpolate(q, size=(grid, grid), mode="bicubic", align_corners=False)
            residual, total = residual - q, total + q
            sums.append(total)
            inputs.append(z)
            indices.append(index)
        return sums, inputs, indices


class TokenFlow(nn.Module):
    def __init__(self, shape=SHAPE):
        super().__init__()
        z, pixel = shape["zChannels"], shape["pixelCodeDim"]
        width, decoder_width = shape["semanticWidth"], shape["semanticDecoderWidth"]
        self.shape = shape
        self.encoder = PixelEncoder(shape)
        self.decoder = PixelDecoder(shape)
        self.quant_conv = nn.Conv2d(z, pixel, 1)
        self.post_quant_conv = nn.Conv2d(pixel, z, 1)
        self.encoder_vqkd = SemanticEncoder(shape)
        self.encode_task_layer = nn.Sequential(
            Linear(width, width), nn.Tanh(), Linear(width, shape["semanticCodeDim"])
        )
        self.decoder_vqkd = SemanticDecoder(shape)
        self.decode_task_layer = nn.Sequential(
            Linear(decoder_width, decoder_width), nn.Tanh(), Linear(decoder_width, shape["semanticOutput"])
        )
        self.quantize = Quantizer(shape)

    def encode_semantic(self, x):
        tokens = self.encode_task_layer(self.encoder_vqkd(x))
        grid = self.shape["scales"][-1]
        return tokens.transpose(1, 2).reshape(len(x), -1, grid, grid)

    def encode_pixels(self, x):
        return self.quant_conv(self.encoder(x))

    def encode(self, x):
        """The 40-channel map before quantisation, semantic channels first."""
        return torch.cat([self.encode_semantic(x), self.encode_pixels(x)], 1)

    def decode_pixels(self, f):
        return self.decoder(self.post_quant_conv(f[:, -self.shape["pixelCodeDim"] :]))

    def decode_semantic(self, f):
        return self.decode_task_layer(self.decoder_vqkd(f[:, : self.shape["semanticCodeDim"]]))


def to_pixels(y):
    """The official conversion to bytes, as float tensors."""
    return (127.5 * y + 128).clamp(0, 255).floor()


def psnr(y, x):
    """PSNR of each image of a batch in 8-bit pixels; x in [-1, 1] comes from bytes."""
    error = (to_pixels(y) - ((x + 1) * 127.5).round()) ** 2
    return 10 * torch.log10(255**2 / error.flatten(1).mean(1))
