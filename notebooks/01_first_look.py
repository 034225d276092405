# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · A first look: where could compute be saved?
#
# One forward pass of a small real model, four probes riding on it. Each one answers the same question from another
# side: *what did this layer, this head, this key really contribute?* (A fifth, `ExpertCoactivation`, reads the routers
# of mixture-of-experts models; this model has none.)
#
# The model is SmolLM2-135M-Instruct: 30 layers, 9 query heads over 3 key-value heads. It is fetched once and runs on a
# CPU.

# %%
import workbench as wb

model = wb.load("smollm2-135m")
model.name, model.layers, str(model.dtype), model.proof

# %% [markdown]
# `proof` is what was checked when the model was loaded: attention rows sum to one, and the workbench's own layer loop
# gives the model's own logits up to that deviation.
#
# ## When does the model know what it will say?
#
# The logit lens puts the final norm and the unembedding behind every layer. If the last layer's token is already there
# after layer 12, the other 18 layers changed nothing that shows in the output.

# %%
text = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is"
seen = wb.observe(
    model,
    text,
    [
        wb.probes.LogitLens(top_k=5),
        wb.probes.AttentionSparsity(layer=24, head=0),
        wb.probes.LayerSimilarity(),
        wb.probes.ResidualContribution(positions=8),
    ],
)
wb.figures.show(wb.figures.logit_lens(seen))

# %% [markdown]
# In this model the tokens settle late. Said as one number, over all positions:

# %%
settled = seen["probes/logit_lens/settle_layer"]
f"the last layer's token stands from layer {float(settled.mean()):.1f} of {model.layers} on, on average"

# %% [markdown]
# So leaving early needs help here (a trained lens, or a model tuned for exits). The next probes show where there is
# slack without training.
#
# ## How many keys does a head really read?
#
# Share of the visible keys that hold 95 % of a head's attention. Dark cells read few keys: those are the ones that
# cache eviction and key selection live on.

# %%
wb.figures.show(wb.figures.attention_sparsity(seen))

# %% [markdown]
# One head in full: the first of layer 24. The bright first column is the attention sink, a token that is read because a
# head has to read *something*. Not every head is like this one; how much of it stands in the column is a number:

# %%
weights = seen["probes/attention_sparsity/map"]
f"{float(weights[1:, 0].mean()):.0%} of what the later queries of this head read is the first token"

# %%
wb.figures.show(wb.figures.attention_map(seen))

# %% [markdown]
# ## Which layers do much the same as their neighbours?
#
# Similarity of the residual stream between all pairs of layers, and how far each block turns it. The similarity is
# debiased, so that unrelated layers score 0 however few positions there are, and every position counts the same: the
# first token's stream is a hundred times longer than the others and would decide it alone.

# %%
wb.figures.show(wb.figures.layer_similarity(seen))

# %% [markdown]
# ## And what happens without one?
#
# How much each sublayer adds to the residual stream, and how far the next-token distribution moves when that one block
# is left out for a token. Cheap blocks are candidates for skipping; the first ones are not.

# %%
wb.figures.show(wb.figures.residual_contribution(seen))

# %% [markdown]
# Everything shown is in one tree, with named dimensions and units, and goes to disk with its checksums:

# %%
seen["probes/residual_contribution"].to_dataset()
