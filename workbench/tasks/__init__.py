"""Real prompts and scored tasks, each with source and licence. Importing this loads neither torch nor transformers."""

from workbench.tasks import humaneval, scorers
from workbench.tasks.conversation import greedy_answer, next_turn, unroll
from workbench.tasks.encoding import encode_parts, encode_prompt, format_prompt, question_view
from workbench.tasks.functions import LEARNED_MODULES, held_out_functions, learned_functions
from workbench.tasks.humaneval import MissingPackage
from workbench.tasks.needle import needle, needle_found
from workbench.tasks.pages import shared_pages
from workbench.tasks.prompt_file import PromptFileError, PromptFileWarning
from workbench.tasks.prompts import Prompt, TaskInfo, list_tasks, load_prompts, write_prompts
from workbench.tasks.scorers import SCORERS, score, scorer_for
from workbench.tasks.selection import stratified
from workbench.tasks.spec_bench import load_spec_bench
from workbench.tasks.training_prompts import TRAINING_TASKS, training_prompts

__all__ = [
    "LEARNED_MODULES",
    "SCORERS",
    "TRAINING_TASKS",
    "MissingPackage",
    "Prompt",
    "PromptFileError",
    "PromptFileWarning",
    "TaskInfo",
    "encode_parts",
    "encode_prompt",
    "format_prompt",
    "greedy_answer",
    "held_out_functions",
    "humaneval",
    "learned_functions",
    "list_tasks",
    "load_prompts",
    "load_spec_bench",
    "needle",
    "needle_found",
    "next_turn",
    "question_view",
    "score",
    "scorer_for",
    "scorers",
    "shared_pages",
    "stratified",
    "training_prompts",
    "unroll",
    "write_prompts",
]
