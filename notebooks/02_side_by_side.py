# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Side by side: what does it save, and what does it cost?
#
# Techniques against the same model's baseline, on the same prompts, timed in turns. *Measured* numbers are wall clock on
# this machine; *modelled* ones are counted operations and bytes laid on a roofline of named hardware. They are never
# mixed. Two prompts, as here, show how it is done and decide nothing: a speed-up has an interval from five prompts on, and
# what stands under the table says how many would be needed.

# %%
import workbench as wb

model = wb.load("smollm2-135m")
prompts = [*wb.tasks.load_prompts("summarising", limit=1), *wb.tasks.load_prompts("copy_editing", limit=1)]

# %% [markdown]
# A recipe is a list of techniques. Two go together unless they claim the same slot.

# %%
study = wb.compare(
    model,
    prompts,
    {
        "prompt lookup": [wb.techniques.PromptLookup(ngram=3, draft=10)],
        "half the KV cache": [wb.techniques.SnapKV(keep=0.5)],
        "half, at random": [wb.techniques.RandomEviction(keep=0.5)],
        "both": [wb.techniques.PromptLookup(), wb.techniques.SnapKV(keep=0.5)],
        "28 of 30 layers": [wb.techniques.UnifiedLayerSkip(speedup=1.07)],
    },
    max_new_tokens=32,
)
study

# %% [markdown]
# Prompt lookup is *exact*: it must give the baseline's tokens, only sooner. Evicting half the prompt's keys is not; the
# random eviction of as many keys says how much of the quality is due to choosing them well. Leaving out layers costs this
# model much, since it was not tuned for it as in the paper: with two layers less it writes another text, and with six
# less (`speedup=1.25`) it ends its answer after one token, so that it has no speed and no place in the figures below.
#
# The table shows what most readers want to know first; `study.table()` has every column, and all digits.

# %%
wb.figures.show(wb.figures.quality_speed(study))

# %% [markdown]
# What each token cost. A run of tokens in one colour block came from a single forward: those were drafted and accepted
# together.

# %%
wb.figures.show(wb.figures.compute_strip(study, run="prompt lookup", prompt=1))

# %%
wb.figures.show(wb.figures.cost_breakdown(study))

# %% [markdown]
# ## Try your own
#
# Every control below comes from the registry: a technique you add in one file appears here by itself.

# %%
from workbench.widgets import side_by_side

panel = side_by_side(model, "Repeat this: one two three four five six seven eight.", max_new_tokens=24)
panel

# %% [markdown]
# The same run from code, as the button does it:

# %%
panel.run()
panel.study
