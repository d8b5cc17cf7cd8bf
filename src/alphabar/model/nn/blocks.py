"""The parts of the U-Net, under the review's names. All work on images [B, C, H, W]."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from alphabar.model.nn.norm_silu import norm_silu
from alphabar.model.nn.winograd import Conv3x3

__all__ = ["AttentionBlock", "DownSample", "Final", "ResnetBlock", "UpSample", "initialise_small"]


class AttentionBlock(nn.Module):
    """Self-attention over the H·W positions, added to its input: x + MHSA(GroupNorm(x))."""

    def __init__(self, channels: int = 64, *, heads: int = 4, norm_groups: int = 8, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.group_norm = nn.GroupNorm(norm_groups, channels, eps=norm_eps)
        self.mhsa = nn.MultiheadAttention(embed_dim=channels, num_heads=heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C, H, W]."""
        batch, channels, height, width = x.shape
        heads = self.mhsa.num_heads
        positions = self.group_norm(x).flatten(2).transpose(1, 2)
        # mhsa holds the weights; its own forward would also build the attention matrix that nobody reads
        packed = functional.linear(positions, self.mhsa.in_proj_weight, self.mhsa.in_proj_bias)
        q, k, v = packed.reshape(batch, height * width, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(q, k, v)
        h = self.mhsa.out_proj(h.transpose(1, 2).reshape(batch, height * width, channels))
        out: Tensor = x + h.transpose(1, 2).reshape(batch, channels, height, width)
        return out


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, + time, norm, SiLU, dropout, conv; added to the input; then attention if asked for."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        dropout_rate: float = 0.1,
        time_emb_dims: int = 512,
        apply_attention: bool = False,
        heads: int = 4,
        norm_groups: int = 8,
        norm_eps: float = 1e-5,
        channel_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.act_fn = nn.SiLU()
        self.normalize_1 = nn.GroupNorm(norm_groups, in_channels, eps=norm_eps)
        self.conv_1 = Conv3x3(in_channels, out_channels)
        self.dense_1 = nn.Linear(time_emb_dims, out_channels)
        self.normalize_2 = nn.GroupNorm(norm_groups, out_channels, eps=norm_eps)
        self.dropout = (nn.Dropout2d if channel_dropout else nn.Dropout)(p=dropout_rate)
        self.conv_2 = Conv3x3(out_channels, out_channels)
        self.match_input: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.match_input = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.attention: nn.Module = nn.Identity()
        if apply_attention:
            self.attention = AttentionBlock(out_channels, heads=heads, norm_groups=norm_groups, norm_eps=norm_eps)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """``x`` [B, in_channels, H, W], time embedding ``t`` [B, time_emb_dims] → [B, out_channels, H, W]."""
        h = self.conv_1(norm_silu(self.normalize_1, self.act_fn, x))
        h = norm_silu(self.normalize_2, self.act_fn, h, shift=self.dense_1(self.act_fn(t)))
        h = self.conv_2(self.dropout(h))
        out: Tensor = self.attention(h + self.match_input(x))
        return out


class DownSample(nn.Module):
    """Half the size by a 3×3 convolution of stride 2.

    Padding is one pixel on every side as in the review, or (``asymmetric_padding``) only right and below, which is
    TensorFlow's SAME and therefore the paper's.
    """

    def __init__(self, channels: int, *, asymmetric_padding: bool = False) -> None:
        super().__init__()
        self.asymmetric_padding = asymmetric_padding
        padding = 0 if asymmetric_padding else 1
        self.downsample = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=padding)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → [B, C, H/2, W/2]; the time embedding is not used."""
        if self.asymmetric_padding:
            x = functional.pad(x, (0, 1, 0, 1))
        out: Tensor = self.downsample(x)
        return out


class UpSample(nn.Module):
    """Twice the size by nearest neighbour, then a 3×3 convolution."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            Conv3x3(in_channels, in_channels),
        )

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → [B, C, 2H, 2W]; the time embedding is not used."""
        out: Tensor = self.upsample(x)
        return out


class Final(nn.Sequential):
    """norm, SiLU, conv: what the network ends with. The first two of its layers may work at once."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] → [B, out_channels, H, W]."""
        layers = list(self)
        if len(layers) > 1:
            norm, act, *layers = layers
            x = norm_silu(norm, act, x)
        for layer in layers:
            x = layer(x)
        return x


def initialise_small(net: nn.Module, last: nn.Conv2d) -> None:
    """Ho et al.'s initialisation: Glorot uniform, zero biases, and almost nothing out of each residual branch.

    The second convolution of every block, the output of every attention and the ``last`` convolution start at
    1e-5 times the Glorot range, so that the network starts as the identity on its skips.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention):
            for matrix in module.in_proj_weight.chunk(3):
                nn.init.xavier_uniform_(matrix)
            nn.init.xavier_uniform_(module.out_proj.weight, gain=1e-5)
        if isinstance(module, ResnetBlock):
            nn.init.xavier_uniform_(module.conv_2.weight, gain=1e-5)
    nn.init.xavier_uniform_(last.weight, gain=1e-5)
