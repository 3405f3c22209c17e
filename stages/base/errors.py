"""Errors that a person can act on: what is wrong, the value, what is allowed, what to do."""


class StageError(Exception):
    """A stage cannot go on; the message is one line that says what to do about it."""


class SettingsError(StageError):
    """``params.yaml`` or ``conf/`` holds an unknown key or a value that is not allowed."""


class TableError(StageError):
    """A table between two stages does not follow its schema."""


class AtlasError(StageError):
    """A raw file of cells is missing, damaged or not what it was taken for."""


class DownloadError(StageError):
    """A file could not be fetched, or what came is not the file asked for."""


class CheckpointError(StageError):
    """A checkpoint of a model is missing, damaged or not the step it was taken for."""


class FigureError(StageError):
    """A figure cannot be drawn from the tables it was given."""


class RenderError(StageError):
    """The paper refers to something that does not exist, or its renderer failed."""


class AblationError(StageError):
    """A model cannot be loaded or its heads cannot be removed as asked."""


class RepresentationError(StageError):
    """Residual streams are missing, damaged, or cannot be harvested as asked."""


class FeatureError(StageError):
    """An autoencoder cannot be trained or read, or its features cannot be traced as asked."""


class ProvenanceError(StageError):
    """It cannot be said what an output was made from."""
