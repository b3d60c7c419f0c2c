"""Packages that only parts of jaxviz need: where one is missing, the error says which, and the extra that has it."""

_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "umap": "umap-learn"}
_PACKAGES |= {"tensorflow_datasets": "tensorflow-datasets", "orbax": "orbax-checkpoint", "faiss": "faiss-cpu"}
"""Of those that are not installed by the name that they are imported by."""


class MissingPackageError(ImportError):
    """A package that is not installed."""


class extra:
    """Lets an import inside a `with` name the package that is missing, and the extra of jaxviz-cnn that has it."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, ModuleNotFoundError) or not error.name:
            return
        module = error.name.split(".")[0]
        package = _PACKAGES.get(module, module)
        raise MissingPackageError(
            f"this needs the package {package}, which is not installed: pip install {package}; it is in the extra "
            f"jaxviz-cnn[{self.name}], and comes with jaxviz-cnn unless it was installed with --no-deps",
            name=error.name,
        ) from error
