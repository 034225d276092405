# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Guess and check: when do drafts pay?
#
# A language model writes one token per forward, and most of that forward is spent reading weights. Reading them for
# sixteen tokens costs far less than sixteen times as much. So let something cheap guess the next tokens, check all
# guesses in one forward, and keep those that the model would have written anyway. The text stays the same; only the
# number of forwards falls.

# %%
import altair as alt
import pandas as pd

import workbench as wb

model = wb.load("smollm2-135m", dtype="bfloat16")

# %% [markdown]
# ## What does checking cost?
#
# Seconds of a forward by the number of tokens in it, over those of a forward of one, measured here. The flatter the
# curve, the more a wrong guess may cost.

# %%
cost = wb.verify_cost(model)
curve = pd.DataFrame({"tokens": range(1, 65), "cost": [cost.ratio(tokens) for tokens in range(1, 65)]})
x = alt.X("tokens", title="tokens in the forward")
wb.figures.show(
    alt.Chart(curve).mark_line().encode(x=x, y=alt.Y("cost", title="measured cost (forwards of one token)"))
)

# %% [markdown]
# ## One draft, looked at
#
# The simplest drafter copies: it looks for the last few tokens earlier in the text and proposes what followed them
# there. Each step says what was drafted and how much of it was kept.

# %%
prompt = wb.tasks.load_prompts("copy_editing", limit=1)[0]
tokens = wb.tasks.encode_prompt(model.tokenizer, prompt)
copied = wb.run(model, tokens, [wb.techniques.PromptLookup()], max_new_tokens=48)
[(step.drafted, step.accepted) for step in copied.steps]

# %% [markdown]
# The same as a picture. Choose a step: blue tokens were accepted, grey ones rejected, and the green one is the model's own,
# which every forward gives for nothing.

# %%
wb.figures.show(wb.figures.draft_tree(copied.trace))

# %% [markdown]
# A draft may also be a tree: several continuations checked in the same forward, of which one can win. Token recycling
# fills its tree with the candidates that the model itself considered earlier.

# %%
recycled = wb.run(model, tokens, [wb.techniques.TokenRecycling()], max_new_tokens=32)
wb.figures.show(wb.figures.draft_tree(recycled.trace))

# %% [markdown]
# ## Who guesses best?
#
# Everything that can draft, straight from the registry:

# %%
from workbench.registry import TECHNIQUES

drafters = {name: kind for name, kind in TECHNIQUES.items() if "draft" in kind.slots}
pd.DataFrame(
    {"exact": [kind.exact for kind in drafters.values()], "paper": [kind.paper for kind in drafters.values()]}, drafters
)

# %% [markdown]
# Five of them on four kinds of prompts: two that copy much of what they were given, two that do not. *Prompt lookup* and
# *suffix draft* search text, *token recycling* remembers candidates. A small *draft model* and trained *heads* on the
# model's own hidden state compute: they know more and cost more. `Goodput` sets the length of another's drafts by what
# they gain and what checking costs; where nothing pays it drafts nothing.

# %%
tasks = ("copy_editing", "summarising", "mathematics", "chat")
prompts = [prompt for task in tasks for prompt in wb.tasks.load_prompts(task, limit=1)]
recipes = {
    "prompt lookup": [wb.techniques.PromptLookup()],
    "suffix draft": [wb.techniques.SuffixDraft()],
    "token recycling": [wb.techniques.TokenRecycling()],
    "draft model": [wb.techniques.DraftModel()],
    "hydra heads": [wb.techniques.HydraHeads()],
    "hydra heads, goodput": [wb.techniques.HydraHeads(), wb.techniques.Goodput()],
}
study = wb.compare(model, prompts, recipes, max_new_tokens=32, repeats=1, quality=False, hardware=())
study.table()[["equal to baseline [share]", "mean accepted tokens"]]

# %%
model.arithmetic

# %% [markdown]
# Every text is the baseline's, in bfloat16 too, if the arithmetic is *compiled*: on a CPU with a C++ compiler a verified
# token is computed bit for bit as a decoded one. Otherwise (no compiler, `WORKBENCH_COMPILED=0`, float16, a GPU, or
# `compiled=True`) torch forms the sums: a forward of sixteen tokens rounds differently from one of a single token, and
# in half precision a near tie may fall the other way; in float32 the texts are equal there as well.
#
# *Mean accepted tokens* are tokens for each decode step: the accepted ones and the one that the model adds itself, so that
# a run without drafts has 1.
#
# ## Accepted is not yet faster
#
# The upper line is what these tokens would be worth if drafting were free and a wide forward cost what a narrow one
# does. The distance to it is the price of guessing. Four prompts are too few for an interval of a speed-up, so each
# point is a median alone.

# %%
wb.figures.show(wb.figures.accepted_speed(study))

# %% [markdown]
# And this is where the price is paid. A drafter that computes shows a long bar of drafting; a wide tree shows in the
# verification.

# %%
wb.figures.show(wb.figures.time_split(study))

# %% [markdown]
# ## How far does a draft hold?
#
# Copied text holds for long or breaks at once; a model's guesses fade from position to position.

# %%
wb.figures.show(wb.figures.acceptance_by_position(study))

# %% [markdown]
# ## Does a drafter know when it is right?
#
# Only then can it stop in time. Points on the diagonal: of the tokens it gave 80 %, eight of ten were kept.

# %%
wb.figures.show(wb.figures.draft_calibration(study))

# %% [markdown]
# ## Sampling stays exact
#
# With a temperature the check is a different one: a guess is kept with just the chance that leaves the model's own
# distribution as it was. The tests prove this by enumerating every outcome on a small vocabulary; here are counts of what
# follows a prompt, with and without a draft, over the same number of seeds.

# %%
from collections import Counter


def sampled(techniques, seeds=40):
    options = {"max_new_tokens": 3, "temperature": 1.0, "top_k": 3}
    runs = (wb.run(model, "Roses are", techniques, seed=seed, **options) for seed in range(seeds))
    return Counter(run.text for run in runs)


counts = pd.DataFrame({"baseline": sampled([]), "draft model": sampled([wb.techniques.DraftModel()])})
counts.fillna(0).astype(int).sort_values("baseline", ascending=False).head(8)

# %% [markdown]
# ## When it loses
#
# Speed-up by prompt, one run of each: read it as an example, not as a measurement. On an open question there is little to
# copy, and a drafter whose guesses are rejected has only made the forwards wider. `Goodput` is there for that: it gives up
# what does not pay.

# %%
speed = study.tree["timing/speedup"].median("repeat").to_pandas()
speed.index, speed.columns = [run["name"] for run in study.runs], tasks
speed.round(2)

# %% [markdown]
# What goes together with what - drafts with a smaller cache, with skipped layers, with a switch of models - is not left to
# chance either: `workbench compatibility` runs every pair.
