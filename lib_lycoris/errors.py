"""What the package raises: one sentence that names the file or key, what was expected, what was found and what to do."""


class LycorisError(Exception):
    """Base of every error that is meant to be shown to the user as it is."""


class NetworkFormatError(LycorisError):
    """A network file, or one module of it, cannot be understood."""


class ModelMismatchError(LycorisError):
    """A network does not fit the model it is asked to change."""


class PromptError(LycorisError):
    """A tag in a prompt cannot be understood."""


class ToolError(LycorisError):
    """A tool cannot do what it was asked to do with these inputs."""


class HostError(LycorisError):
    """The program that we run in lacks something that we need."""
