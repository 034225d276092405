# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · How deep is enough?
#
# Every token runs through all layers, also the easy ones. Could some leave earlier, or take fewer layers? First what the
# layers know, then what an oracle could save, then what a technique does save, and what it costs the text.

# %%
import pandas as pd

import workbench as wb

model = wb.load("smollm2-135m", dtype="bfloat16")
prompt = "The capital of France is Paris, and the capital of Italy is Rome. The capital of Spain is"

# %% [markdown]
# ## What does each layer say?
#
# A *logit lens* reads the residual stream after every block through the model's own final norm and unembedding. A *tuned
# lens* puts an affine map in front, trained so that it says what the last layer will say.

# %%
probes = [wb.probes.LogitLens(), wb.probes.TunedLens(), wb.probes.ExitOracle(), wb.probes.ResidualVelocity()]
seen = wb.observe(model, prompt, probes=probes)
wb.figures.show(wb.figures.lens_distance(seen))

# %% [markdown]
# Through the untrained lens the middle of this model says next to nothing that the end will say: its layers write in
# another basis. Through the trained one they know more, yet most of what they know comes late.
#
# ## When has a token settled?
#
# If one knew the last layer's answer, how early could each token have left? The first three criteria know it; the others
# are what a technique can see: how sure the lens is, or whether the stream has stopped turning.

# %%
wb.figures.show(wb.figures.exit_oracle(seen))

# %% [markdown]
# The distance between the two kinds is the price of not knowing. A stream that has stopped turning is a trap here: it
# hardly turns in the middle and still moves at the end, as its velocity shows.

# %%
wb.figures.show(wb.figures.residual_velocity(seen))

# %% [markdown]
# ## Leaving early
#
# `ConfidenceExit` lets a token leave where a lens is sure enough. What it leaves out has to be filled with something, or
# later tokens look at holes. Below: the untrained lens, the trained one, and the trained one with less patience.
# *Agreement* is teacher-forced: the share of places where the model's first choice is the same.

# %%
leave = wb.techniques.ConfidenceExit
recipes = {
    "logit lens": [leave(lens="logit", threshold=0.8)],
    "tuned lens, 0.9": [leave(threshold=0.9)],
    "tuned lens, 0.6": [leave(threshold=0.6)],
    "two blocks less": [wb.techniques.LayerDrop(count=2)],
    "every layer but three": [wb.techniques.UnifiedLayerSkip(speedup=30 / 27)],
}
prompts = wb.tasks.load_prompts("code_completion", limit=1) + wb.tasks.load_prompts("chat", limit=1)
study = wb.compare(model, prompts, recipes, max_new_tokens=24, repeats=1, hardware=())
columns = [name for name in study.table().columns if "agree" in name or "layers" in name or "FLOP" in name]
study.table()[columns]

# %% [markdown]
# The logit lens saves layers by being sure and wrong. The tuned lens is right about when it is sure, and is seldom sure
# early, so that it saves little: on this model an exit has to pay for its own look at 49,152 tokens, which costs as much
# as several layers.
#
# ## Parts that were trained for it
#
# Gates that were trained together with what they read (`JointExit`), a change of weights that makes the first layers
# models of their own (`SortedExit`), routers that choose from the prompt which layers are left out (`LayerRouter`), and a
# small MLP for the tokens that need no big one (`SmallBigRouter`).

# %%
techniques = wb.techniques
recipes = {
    "joint exits": [techniques.JointExit()],
    "sorted, 27 of 30 layers": [techniques.SortedExit(budget=0.9)],
    "routed layers": [techniques.LayerRouter()],
    "big and small MLPs": [techniques.SmallBigRouter()],
}
trained = wb.compare(model, prompts, recipes, max_new_tokens=24, repeats=1, hardware=())
trained.table()[columns]

# %%
wb.figures.show(wb.figures.layer_choices(trained, run="routed layers"))

# %% [markdown]
# All of them were trained for minutes, and none saves much without saying something else. What joint training does bring
# is a confidence that is nearer the truth: over 931 tokens its expected calibration error is 0.03 to 0.04 at the exits,
# where the tuned lens has 0.06 to 0.15. Below, the same for two answers, with intervals as wide as so few tokens make
# them: how sure the exits are, against how often they say the full model's token, and the text's.

# %%
texts = [wb.tasks.encode_prompt(model.tokenizer, prompt) for prompt in prompts]
wb.figures.show(wb.figures.exit_calibration(wb.exit_calibration(model, texts, max_new_tokens=48)))

# %% [markdown]
# ## Guess with the lower half, check with the upper
#
# An early exit that is only a *draft* cannot harm the text. The first layers run for some tokens in a row, and the others
# then verify all of them at once, from where the first ones stopped: no layer is computed twice.

# %%
tokens = wb.tasks.encode_prompt(model.tokenizer, prompts[0])
plain = wb.run(model, tokens, max_new_tokens=32)
drafts = [wb.techniques.SelfSpeculative(exit_layer=layers, vocabulary=16384) for layers in (12, 18, 24, 27)]
drafts.append(wb.techniques.DynamicExitLayer())
runs = [wb.run(model, tokens, [each], max_new_tokens=32) for each in drafts]
drafted = [sum(step.drafted for step in run.steps) for run in runs]
accepted = [sum(step.accepted for step in run.steps) for run in runs]
names = [f"exit after {each.exit_layer:g}" for each in drafts[:-1]] + ["chosen each round"]
facts = {"drafted": drafted, "accepted": accepted, "same text": [run.text == plain.text for run in runs]}
pd.DataFrame(facts, names)

# %% [markdown]
# Step by step: drag over the first panel, and the others show the same steps.

# %%
wb.figures.show(wb.figures.exit_timeline(runs[2].trace))

# %% [markdown]
# Low exits are unsure, and stop drafting; high ones are right, but have run most of the model by then. Between them no
# point gains time here (README, *Depth, measured*). Models whose layers were trained to be read early, as LayerSkip's and
# the sorted ones, move that point: `workbench train sorted_exit` trains such a change, and on a larger machine for as long
# as it takes.
