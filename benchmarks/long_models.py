"""Export models of long inputs to ONNX, whose activations are what memory goes to.

Needs `torch transformers onnx`; weights are seeded and random, nothing is downloaded.
Bert and Llama have 2,048 tokens, ViT as many patches and one, MobileNetV2 an image of
1024 by 1024. `llama` gives its logits, as it is used; `llama_next` those of the next
token alone.
"""

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers as hf  # noqa: E402

LENGTH = 2048
VOCABULARY = 32000
OPSET = 17


class First(torch.nn.Module):
    """A model of which the first output is wanted, or the last position of it."""

    def __init__(self, model: torch.nn.Module, last: bool = False) -> None:
        super().__init__()
        self.model, self.last = model, last

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        found: torch.Tensor = self.model(*args, return_dict=False)[0]
        return found[:, -1] if self.last else found


def tokens() -> dict[str, torch.Tensor]:
    """Token numbers and a mask of all ones."""
    numbers = torch.randint(0, 1000, (1, LENGTH))
    return {"input_ids": numbers, "attention_mask": torch.ones_like(numbers)}


def image(side: int) -> dict[str, torch.Tensor]:
    """A picture of noise."""
    return {"pixel_values": torch.randn(1, 3, side, side)}


def bert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Four layers of 512, eight heads."""
    config = hf.BertConfig(
        hidden_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=2048,
        max_position_embeddings=LENGTH,
        attn_implementation="eager",
    )
    return First(hf.BertModel(config)), tokens()


def vit() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Four layers of 384, six heads; 2,305 positions."""
    config = hf.ViTConfig(
        hidden_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=768,
        patch_size=16,
        attn_implementation="eager",
    )
    return First(hf.ViTModel(config)), image(768)


def _llama(last: bool) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=1408,
        max_position_embeddings=LENGTH,
        use_cache=False,
        attn_implementation="eager",
    )
    return First(hf.LlamaForCausalLM(config), last), tokens()


def llama() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Four layers of 512, eight heads that share four; all logits."""
    return _llama(False)


def llama_next() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The same; the logits of the next token."""
    return _llama(True)


def mobilenetv2() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """As published, at a larger size."""
    return First(hf.MobileNetV2Model(hf.MobileNetV2Config(image_size=1024))), image(
        1024
    )


BUILDS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, torch.Tensor]]]] = {
    made.__name__: made for made in (bert, vit, llama, llama_next, mobilenetv2)
}


def main() -> int:
    """Export what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    options = parser.parse_args()
    options.out_dir.mkdir(parents=True, exist_ok=True)
    for name in options.names or BUILDS:
        torch.manual_seed(0)
        module, inputs = BUILDS[name]()
        module.eval()
        path = options.out_dir / f"{name}.onnx"
        with torch.no_grad():
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                output_names=["y"],
                opset_version=OPSET,
                dynamo=False,
            )
        print(f"{name}: {path} {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
