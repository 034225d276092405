"""What a model's ``generation_config.json`` asks for beyond its stop tokens, and how to switch it on here.

A run is greedy and unchanged unless told otherwise, so that a comparison compares what it names. What the file asks for
is therefore said when a model is loaded, with the recipe and the settings that do it.
"""

from __future__ import annotations

from typing import Any

# Name in the file, setting of the technique `logits_processors`, value that does nothing, bounds of a number.
_PROCESSORS = (
    ("repetition_penalty", "repetition_penalty", 1.0, (0.01, 10)),
    ("no_repeat_ngram_size", "no_repeat_ngram", 0, (0, 64)),
    ("suppress_tokens", "suppress_tokens", (), None),
    ("begin_suppress_tokens", "begin_suppress_tokens", (), None),
    ("bad_words_ids", "bad_words", (), None),
)
_DRAWN_PROCESSORS = (("min_p", "min_p", 0.0, (0, 1)), ("epsilon_cutoff", "epsilon_cutoff", 0.0, (0, 0.999)))
# What transformers takes where the file says nothing, and what changes nothing.
_SAMPLING = (("temperature", 1.0, None), ("top_p", 1.0, 1.0), ("top_k", 50, 0))
_NO_COUNTERPART = {
    "min_length": 0, "num_beams": 1, "typical_p": 1.0, "eta_cutoff": 0.0, "top_h": None, "guidance_scale": 1.0,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "exponential_decay_length_penalty": None,
    "sequence_bias": None, "encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0,
    "watermarking_config": None, "remove_invalid_values": False, "token_healing": False,
}  # fmt: skip


def asked_for(settings: Any) -> list[str]:
    """One line on what a generation configuration asks for and a run leaves out, or none.

    Parameters
    ----------
    settings : transformers.GenerationConfig
    """
    drawn = bool(getattr(settings, "do_sample", False))
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    recipe, without = list[str](), list[str]()
    for theirs, ours, idle, bounds in _PROCESSORS + (_DRAWN_PROCESSORS if drawn else ()):
        value = getattr(settings, theirs, None)
        if theirs == "bad_words_ids" and isinstance(value, list):
            value = [word for word in value if word not in [[end] for end in ends]]
        if value is None or value == idle or value == []:
            continue
        spelled = _spelled(value, bounds)
        (recipe if spelled else without).append(f"{ours}={spelled}" if spelled else theirs)
    options = []
    if drawn:
        for key, default, idle in _SAMPLING:
            value = getattr(settings, key, None)
            value = default if value is None else value
            options += [] if value == idle else [f"{key}={value}" if isinstance(value, int | float) else key]
    if getattr(settings, "min_new_tokens", None):
        options.append(f"min_new_tokens={settings.min_new_tokens}")
    if getattr(settings, "stop_strings", None):
        options.append(f"stop_text={settings.stop_strings!r}")
    without += [key for key, idle in _NO_COUNTERPART.items() if getattr(settings, key, None) not in (None, idle)]
    how = []
    if recipe:
        how.append(f"the technique logits_processors:{','.join(recipe)}")
    if options:
        how.append(f"the run's settings {', '.join(options)}")
    if not how and not without:
        return []
    note = "generation_config.json asks for more than its stop tokens, which a run does only when told"
    note += f": switch it on with {' and '.join(how)}" if how else ""
    return [note + (f"; without counterpart here: {', '.join(without)}" if without else "")]


def _spelled(value: Any, bounds: tuple[float, float] | None) -> str:
    """A number, token ids or several sequences of them as the technique takes them; empty for anything else."""
    if bounds is not None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"{value}" if number and bounds[0] <= value <= bounds[1] else ""
    if not isinstance(value, list | tuple):
        return ""
    if all(type(token) is int and 0 <= token < 10**9 for token in value):
        return "-".join(map(str, value))
    words = [_spelled(word, None) if isinstance(word, list | tuple) else "" for word in value]
    return "/".join(words) if all(words) else ""
