"""What a lens says of residual streams, by transformers' own modules and by the definitions."""

from operator import attrgetter

import torch


@torch.no_grad()
def every_row(model, residuals, cap=None):
    """float64 log-probabilities [layers + 1, tokens, vocabulary] by the transformers model's own modules."""
    normed = attrgetter(model.anatomy.family.final_norm)(model.hf)(residuals)
    logits = model.hf.get_output_embeddings()(normed).double() / getattr(model.hf.config, "logits_scaling", 1.0)
    return (logits if cap is None else cap * torch.tanh(logits / cap)).log_softmax(-1)


def restated(rows, top_k):
    """The definitions, row by row: nothing shared with the probe."""
    last = rows[-1]
    order = rows.sort(dim=-1, descending=True, stable=True).indices
    final = order[-1, :, 0]
    settle = []
    for token in range(rows.shape[1]):
        layer = len(rows) - 1
        while layer and order[layer - 1, token, 0] == final[token]:
            layer -= 1
        settle.append(layer - 1)
    picked = final[None, :, None].expand(len(rows), -1, 1)
    return {
        "top_token": order[..., :top_k],
        "top_probability": rows.gather(-1, order[..., :top_k]).exp(),
        "entropy": -(rows.exp() * rows).sum(-1),
        "kl_to_last": (last.exp() * (last - rows)).sum(-1),
        "final_token": final,
        "final_rank": (order == picked).long().argmax(-1),
        "final_probability": rows.gather(-1, picked)[..., 0].exp(),
        "settle_layer": torch.tensor(settle),
    }
