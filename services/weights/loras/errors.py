"""Why a file cannot be used as a LoRA."""


class LoraError(ValueError):
    """A file cannot be used as a LoRA of a transformer.

    The message continues a sentence that begins with the name of the LoRA, e.g. `is a DoRA, which is not supported`.
    """
