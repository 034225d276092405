"""Exits without a fill, replayed by hand, token by token and layer by layer."""

import torch

from workbench.engine import Decoder


def leaves_as(look, model, prompt, steps):
    """Hold the decode steps of a run to what a formula says of who leaves where, and with which token.

    ``look(token, layer, x)`` is told the token's place in the answer, a layer, and the stream [1, width] after it; it
    gives the stream that the layer is unembedded as, and whether the token leaves.
    """
    decoder, text, exits = Decoder(model, len(steps)), list(prompt), []
    decoder.prefill(prompt)
    for index, step in enumerate(steps):
        if index:
            with torch.inference_mode(), decoder.open(text[-1:]) as opened:
                for layer in range(model.layers):
                    opened.run(until=layer + 1)
                    stream, leaves = look(index, layer, opened.x[0])
                    if leaves:
                        opened.exit()
                        break
                logits = model.anatomy.unembed(stream)
                opened.finish()
            assert step.layers == tuple(range(layer + 1))
            assert int(logits.argmax()) == step.tokens[0]
            exits.append(layer)
        text += step.tokens
    assert len(set(exits)) >= 2, "the thresholds of this test are to tell layers apart"
