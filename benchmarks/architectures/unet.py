"""A small U-Net in the manner of latent diffusion (Rombach et al., 2022)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (96, 192, 288)
CONTEXT = 256
GROUPS = 32
HEAD = 48
TIME = 384


class Residual(nn.Module):
    """Two convolutions, the embedded time added between them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(TIME, after)
        self.norm2 = nn.GroupNorm(GROUPS, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`x` [N, before, H, W] and `time` [N, TIME] to [N, after, H, W]."""
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time(functional.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(y)))


class Attention(nn.Module):
    """Attention to `context`, without biases on the way in."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(context, width, bias=False)
        self.value = nn.Linear(context, width, bias=False)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        x = x.view(batch, length, self.heads, width // self.heads)
        return x.transpose(1, 2).reshape(batch * self.heads, length, HEAD)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x` [N, L, width] and `context` [N, S, context] to [N, L, width]."""
        batch, length, width = x.shape
        query, key, value = (
            self._split(part)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        scores = torch.bmm(query, key.transpose(1, 2)) * HEAD**-0.5
        mixed = torch.bmm(scores.softmax(-1), value)
        mixed = mixed.view(batch, self.heads, length, HEAD).transpose(1, 2)
        return self.out(mixed.reshape(batch, length, width))


class Transformer(nn.Module):
    """Attention among pixels, attention to the prompt, and GEGLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.project_in = nn.Conv2d(width, width, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.among = Attention(width, width)
        self.across = Attention(width, CONTEXT)
        self.gated = nn.Linear(width, 8 * width)
        self.down = nn.Linear(4 * width, width)
        self.project_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x` [N, width, H, W] and `context` [N, S, CONTEXT] to the shape of `x`."""
        batch, width, height, breadth = x.shape
        y = self.project_in(self.norm(x))
        y = y.permute(0, 2, 3, 1).reshape(batch, height * breadth, width)
        normed = self.norm1(y)
        y = y + self.among(normed, normed)
        y = y + self.across(self.norm2(y), context)
        hidden, gate = self.gated(self.norm3(y)).chunk(2, dim=-1)
        y = y + self.down(hidden * functional.gelu(gate))
        y = y.reshape(batch, height, breadth, width).permute(0, 3, 1, 2)
        return x + self.project_out(y)


class UNet(nn.Module):
    """One residual block and one transformer for each level, on either way."""

    def __init__(self) -> None:
        super().__init__()
        first, last = CHANNELS[0], CHANNELS[-1]
        self.time = nn.Sequential(
            nn.Linear(first, TIME), nn.SiLU(), nn.Linear(TIME, TIME)
        )
        self.conv_in = nn.Conv2d(4, first, 3, padding=1)
        befores = (first, *CHANNELS[:-1])
        self.down = nn.ModuleList(map(Residual, befores, CHANNELS))
        self.down_mix = nn.ModuleList(map(Transformer, CHANNELS))
        self.shrink = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for width in CHANNELS[:-1]
        )
        self.middle = nn.ModuleList([Residual(last, last), Residual(last, last)])
        self.middle_mix = Transformer(last)
        ups = CHANNELS[::-1]
        self.up = nn.ModuleList(
            Residual(before + width, width)
            for before, width in zip((last, *ups[:-1]), ups, strict=True)
        )
        self.up_mix = nn.ModuleList(map(Transformer, ups))
        self.grow = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for width in ups[:-1]
        )
        self.norm_out = nn.GroupNorm(GROUPS, first)
        self.conv_out = nn.Conv2d(first, 4, 3, padding=1)

    def _embedded(self, timestep: Tensor) -> Tensor:
        """Sines and cosines of `timestep` [N], through two layers: [N, TIME]."""
        half = CHANNELS[0] // 2
        rates = torch.exp(-math.log(10000) / half * torch.arange(half))
        angles = timestep[:, None].float() * rates[None]
        embedded = torch.cat([angles.sin(), angles.cos()], dim=-1)
        embedded = torch.cat([embedded[:, half:], embedded[:, :half]], dim=-1)
        return self.time(embedded)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> tuple[Tensor]:
        """Noise in `x` [N, 4, H, W] at `timestep` [N], `context` being the prompt."""
        time = self._embedded(timestep)
        x = self.conv_in(x)
        kept = []
        for level, (block, mix) in enumerate(
            zip(self.down, self.down_mix, strict=True)
        ):
            x = mix(block(x, time), context)
            kept.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        x = self.middle[1](self.middle_mix(self.middle[0](x, time), context), time)
        for level, (block, mix) in enumerate(zip(self.up, self.up_mix, strict=True)):
            x = mix(block(torch.cat([x, kept.pop()], dim=1), time), context)
            if level < len(self.grow):
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.grow[level](x)
        return (self.conv_out(functional.silu(self.norm_out(x))),)
