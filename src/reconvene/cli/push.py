"""``reconvene push DIR REPOSITORY``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Positional, UseAppendAction, arg

from reconvene.cli.command import Answer, ArtifactFolder, Command

Repository = Positional[Annotated[str, arg(metavar="OWNER/NAME")]]
"""A repository of the hub."""


@dataclass(kw_only=True)
class PushCommand(Command):
    """Share an artifact on the Hugging Face hub, with a model card that is generated from it.

    The account is taken from `hf auth login` or from HF_TOKEN.
    """

    command_lines: ClassVar[tuple[str, ...]] = ("reconvene push out/ owner/name --license apache-2.0",)
    heading: ClassVar[str] = "what is shared"

    directory: ArtifactFolder
    """Folder of the artifact."""
    repository: Repository
    """Repository of the hub; a new one is created where there is none."""
    license: Annotated[str | None, arg(metavar="NAME")] = None
    """Licence of the weights as the hub calls it: apache-2.0. Without it the card says that none was stated."""
    include: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="FILE")]] = ()
    """A further file of the folder to upload, such as model.onnx."""
    private: bool = False
    """Make a repository that is new private."""
    revision: Annotated[str | None, arg(metavar="BRANCH")] = None
    """Branch to commit to, made where there is none. By default the main one."""
    message: Annotated[str | None, arg(metavar="TEXT")] = None
    """Message of the commit."""
    dry_run: bool = False
    """Upload nothing: show the model card and what would go."""

    def run(self) -> Answer:
        """Check, describe, upload."""
        from reconvene.artifact import push_to_hub

        upload = push_to_hub(
            self.directory,
            self.repository,
            license=self.license,
            include=self.include,
            private=self.private or None,
            revision=self.revision,
            message=self.message,
            dry_run=self.dry_run,
        )
        return Answer(str(upload), upload.to_dict())
