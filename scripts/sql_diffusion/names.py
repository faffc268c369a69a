"""What the tensors of a network are called: from the names of a file to those that its modules have today, by its class.

A network wrapped while it was trained or compiled carries the wrapper's name before its own. transformers writes the
text encoders of CLIP with text_model. before their modules or, since its version 5, without.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it takes NumPy, and what is read here takes the standard library alone
    from .tensors import Tensor

Tensors = dict[str, "Tensor"]  # by name

WRAPPERS = ("module.", "_orig_mod.", "ema_model.", "ema.")

# Attention layers were renamed in diffusers 0.17; checkpoints from before it still carry the old names.
OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)(\.weight|\.bias)")
NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# What a whole CLIP or GPT-2 holds besides the weights of the network that is run.
NOT_OF_CLIP = re.compile(r"logit_scale|vision_model\..*|visual_projection\..*|.*\.position_ids")
NOT_OF_GPT = re.compile(r".*\.attn\.(?:masked_)?bias")
GPT_MATRIX = re.compile(r"(?:.*\.)?(?:c_attn|c_proj|c_fc|q_attn)\.weight")


def network_class(config: dict[str, Any]) -> str | None:
    """The class that a config names, as diffusers does or as transformers does."""
    architectures = config.get("architectures") or [None]
    name = config.get("_class_name") or architectures[0]
    return None if name is None else str(name)


def network_tensors(network: str, tensors: Tensors, tied: bool = True) -> Tensors:
    """The tensors of a network of this class, by the names that its modules have. tied: a language model's head is its
    table of embeddings, which a file may hold twice."""
    tensors = unwrap(tensors)
    if network.startswith("CLIP"):
        return {text_name(name): tensor for name, tensor in tensors.items() if not NOT_OF_CLIP.fullmatch(name)}
    if network.startswith("GPT2"):
        # GPT-2's Conv1D keeps (in, out) where a linear layer has (out, in).
        return {
            name.removeprefix("transformer."): tensor.transpose() if GPT_MATRIX.fullmatch(name) else tensor
            for name, tensor in tensors.items()
            if not NOT_OF_GPT.fullmatch(name) and not (tied and name.startswith("lm_head."))
        }
    return {present_name(name): tensor for name, tensor in tensors.items()}


def unwrap(tensors: Tensors) -> Tensors:
    """Without the names of wrappers that stand before all; the averaged weights where a file holds these beside others."""
    averaged = {name: tensor for name, tensor in tensors.items() if name.startswith("ema_model.")}
    # a part of a network that torch.compile wrapped
    tensors = {name.replace("._orig_mod.", "."): tensor for name, tensor in (averaged or tensors).items()}
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return unwrap({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return tensors


def present_name(name: str) -> str:
    """A tensor's name as diffusers writes it today."""
    match = OLD_ATTENTION.fullmatch(name)
    return f"{match[1]}{NEW_ATTENTION[match[2]]}{match[3]}" if match else name


def text_name(name: str) -> str:
    """The name of a tensor of a CLIP text encoder, text_model. before all but the projection."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"
