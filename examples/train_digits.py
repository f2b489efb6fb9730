"""Train and export the model that comes with this repository: `models/digits.onnx`.

    pip install torch onnxscript scikit-learn
    python examples/train_digits.py examples/models

A small network reads 8x8 images of handwritten digits (the set that comes with
scikit-learn): two convolutions with batch norm, then one block of attention over the
4x4 positions. It is exported as PyTorch exports it, with a dynamic batch and nothing
tidied, so it is full of what `graphopt optimize` is for. Images that training did not
see are written beside it, as `digits.npz`, and what they show as `digits.labels.txt`.
"""

import sys
from pathlib import Path

import numpy as np

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    sys.exit(
        f"{error.name} is not installed; pip install torch onnxscript scikit-learn"
    )

WIDTH, HEADS, HELD_OUT = 32, 4, 64


class Attention(nn.Module):
    """Self-attention with several heads, spelled out."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )

    def heads(self, x: Tensor) -> Tensor:
        """[batch, length, width] --> [batch, heads, length, width / heads]"""
        batch, length, width = x.shape
        return x.view(batch, length, HEADS, width // HEADS).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = map(self.heads, (self.query(x), self.key(x), self.value(x)))
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class Digits(nn.Module):
    """f32[batch, 8, 8] with grey levels from 0 to 16 --> f32[batch, 10] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.SiLU(),
            nn.Conv2d(16, WIDTH, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.SiLU(),
        )
        self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(2 * WIDTH, WIDTH),
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolutions((images / 16).unsqueeze(1))
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attention(x)
        x = x + self.mlp(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


def main() -> None:
    """Train for a minute, export, and write the images that were held out."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images.reshape(-1, 8, 8), dtype=torch.float32)
    labels = torch.tensor(labels)
    order = torch.randperm(len(images))
    held, seen = order[:HELD_OUT], order[HELD_OUT:]

    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(40):
        for batch in seen[torch.randperm(len(seen))].split(64):
            loss = nn.functional.cross_entropy(
                model(images[batch]), labels[batch], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    right = (model(images[held]).argmax(1) == labels[held]).sum().item()
    print(f"{right} of {HELD_OUT} images that it has not seen are read correctly")

    torch.onnx.export(
        model,
        (images[:2],),
        folder / "digits.onnx",
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    np.savez_compressed(folder / "digits.npz", images=images[held].numpy())
    np.savetxt(folder / "digits.labels.txt", labels[held].numpy(), fmt="%d")


if __name__ == "__main__":
    main()
