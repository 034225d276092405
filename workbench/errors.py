"""The errors this library raises on purpose, so that a page or a shell can show their message as it is."""


class WorkbenchError(Exception):
    """Base of every deliberate error; its text is written for the person at the keyboard."""


class ModelError(WorkbenchError):
    """A model cannot be found, fetched, stored or loaded."""


class UnsafeModel(ModelError):
    """A model's files would run code, or reach outside their own folder."""


class UnsupportedModel(ModelError):
    """The model's architecture or its number format is none that the workbench knows."""


class CorruptModel(ModelError):
    """A model's files are damaged: truncated, inconsistent, or not what their checksum says."""


class IncompatibleTechniques(WorkbenchError, ValueError):
    """Two techniques claim one slot, or one excludes the other."""


class SettingError(WorkbenchError, ValueError):
    """A setting lies outside its bounds, or a specification cannot be read."""


class ArtifactError(SettingError):
    """A trained part is missing, or was made by another recipe, for another model or in another shape."""


class PromptError(WorkbenchError, ValueError):
    """A prompt is empty, too long for the model, or holds tokens the model does not have."""


class NumericalError(WorkbenchError, ArithmeticError):
    """A forward pass produced NaN or infinity where a number was due."""


class OutOfMemory(WorkbenchError, MemoryError):
    """The machine or the accelerator has no memory left for what was asked."""


class TraceError(WorkbenchError, ValueError):
    """A trace lacks what every trace has, or its files on disk are damaged."""


class OutputError(WorkbenchError):
    """A file could not be written; what stood in its place before is still there."""


def words_of(error: BaseException) -> str:
    """One line of what a library raised over a file that is not what it should be.

    Raises
    ------
    BaseException
        The error itself, if it is the end of the process and no answer. A tokenizer's native code panics with an
        exception that is no Exception; that is one.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return " ".join(f"{type(error).__name__}: {error}".split())
